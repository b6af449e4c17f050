"""With which settings a run goes on, and with which it does not."""

import pytest

from qt_jax.errors import UserError
from qt_jax.training import loop
from qt_jax.training.assets import plain_config
from qt_jax.training.continuing import refuse_to_continue
from qt_jax.training.metrics import check_finite
from qt_jax.training.state import learning_rate
from tests import tiny


def changed(step: int = 10, **settings):
    """The settings that a run of 20 steps reports as changed when it goes on from `step` with these."""
    before, now = tiny.get_config(), tiny.get_config()
    now.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    return refuse_to_continue(plain_config(before), plain_config(now), step, "RUN/checkpoints/10")


@pytest.mark.parametrize(
    "key, value",
    [
        ("model.remat", "full"),
        ("model.encoder_remat", "dots"),
        ("model.scan_layers", True),
        ("train.accumulation", 2),
        ("mesh.fsdp", 2),
        ("train.steps", 40),
        ("optimizer.learning_rate", 1e-5),
        ("data.read_threads", 9),
    ],
)
def test_what_changes_no_number_and_what_may_be_turned_is_accepted_and_reported(key, value):
    assert list(changed(**{key.replace(".", "__"): value})) == [f"config.{key}"]


@pytest.mark.parametrize(
    "key, value", [("workdir", "elsewhere"), ("distributed.num_processes", 4), ("evaluate.episodes", 9)]
)
def test_what_no_step_depends_on_is_not_reported(key, value):
    assert changed(**{key.replace(".", "__"): value}) == {}


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"train__steps": 15}, "config.train.steps=20, this run has 15"),
        ({"optimizer__learning_rate": 1e-2}, "config.optimizer.learning_rate=0.0003, this run has 0.01"),
        ({"optimizer__warmup_steps": 3}, "config.optimizer.warmup_steps=2, this run has 3"),
        ({"model__dtype": "bfloat16"}, "config.model.dtype='float32', this run has 'bfloat16'"),
        ({"model__attention": "window"}, "config.model.attention"),
        ({"seed": 1}, "config.seed=0, this run has 1"),
        ({"train__steps": 40, "discount": 0.9}, "config.discount"),
    ],
)
def test_what_makes_it_another_run_is_refused(settings, expected):
    with pytest.raises(UserError, match=f"^RUN/checkpoints/10 was made with .*{expected}"):
        changed(**settings)


def test_a_finished_run_takes_a_lower_learning_rate_only_with_more_steps():
    with pytest.raises(
        UserError,
        match="is the end of a run with config.optimizer.learning_rate=0.0003.* raise config.train.steps",
    ):
        changed(step=20, optimizer__learning_rate=1e-5)
    assert len(changed(step=20, optimizer__learning_rate=1e-5, train__steps=40)) == 2
    assert changed(step=20, model__remat="full")


def test_the_schedule_of_a_longer_run_is_that_of_its_new_length():
    config = tiny.get_config()
    config.optimizer.learning_rate, config.optimizer.warmup_steps, config.train.steps = 1.0, 4, 20
    assert [float(learning_rate(config, step)) for step in (0, 2, 4)] == [0.0, 0.5, 1.0]
    assert float(learning_rate(config, 12)) == pytest.approx(0.55)
    assert float(learning_rate(config, 20)) == float(learning_rate(config, 50)) == pytest.approx(0.1)
    config.train.steps = 36
    assert float(learning_rate(config, 20)) == pytest.approx(0.55), "half of the cosine is left again"
    config.optimizer.warmup_steps = 100
    assert float(learning_rate(config, 35)) == pytest.approx(1.0), "the warm-up ends with the run"


def test_an_empty_program_of_a_full_disk_is_compiled_and_kept_again(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")  # the tests' own
    monkeypatch.setattr(loop.jax.config, "update", {}.__setitem__)
    (tmp_path / "jit_a-1-cache").touch()
    (tmp_path / "jit_b-2-cache").write_bytes(b"whole")
    loop._use_compilation_cache(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["jit_b-2-cache"]


def test_the_folder_of_programs_that_jax_was_given_comes_first(monkeypatch):
    settings = {}
    monkeypatch.setattr(loop.jax.config, "update", settings.__setitem__)
    for given, expected in (("/given", "/given"), ("", "/mine")):
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
        loop._use_compilation_cache("/mine")
        assert settings == {"jax_compilation_cache_dir": expected}


def test_a_line_says_what_is_other_than_before():
    config = tiny.get_config()
    config.train.steps = 40
    line = loop._resumed(20, config, {"config.train.steps": (20, 40)})
    assert (
        "resumed from step 20 of 40\nwith other settings than before: config.train.steps 20 -> 40; the "
        "learning rate is now" in line
    )
    assert loop._resumed(40, config, {}) == "resumed from step 40 of 40: nothing is left to do"


def test_a_loss_that_is_not_finite_says_how_to_go_on():
    with pytest.raises(
        UserError,
        match="Step 7: loss is nan.*Lower config.optimizer.learning_rate and start again.*last checkpoint",
    ):
        check_finite(7, {"loss": float("nan")})
