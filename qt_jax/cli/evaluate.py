"""`evaluate`: the checkpoint of config.workdir, or a served policy, in the simulator."""

from __future__ import annotations

from typing import Any

from absl import flags
from etils import epath

from qt_jax import front_door
from qt_jax.evaluation import evaluate, report
from qt_jax.serving import access

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the command's own flags."""
    flags.DEFINE_string(
        "policy",
        "",
        "ws://, wss:// or unix:// URL of a served policy to evaluate instead of config.workdir's checkpoint: "
        "of `serve`, or of any other server of openpi's protocol.",
    )
    flags.DEFINE_string("keys", "", "JSON file that says what that server calls cameras, state and prompt.")
    executed = "Actions of a reply that are executed, of another server than `serve`. [all]"
    flags.DEFINE_integer("execute", 0, executed, lower_bound=0)
    flags.DEFINE_string(
        "api_key_file", "", "File with the server's API key; else the environment's QT_JAX_API_KEY."
    )
    flags.DEFINE_string(
        "ca", None, "PEM file of the certificates to trust, where the server at wss:// signed its own."
    )


def main(config: Any) -> None:
    """Evaluates, and prints the table."""
    keys = access.read_keys(FLAGS.api_key_file) if FLAGS.policy else ()
    key = keys[0] if keys else None
    front_door.evaluate(
        config,
        server=FLAGS.policy,
        api_key=key,
        ca=FLAGS.ca,
        keys=FLAGS.keys,
        execute=FLAGS.execute,
    )
    folder = epath.Path(config.workdir)
    print((folder / evaluate.TABLE).read_text(), end="")
    print(f"report: {folder / report.PAGE}")
