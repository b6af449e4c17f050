"""Turns arguments for a pod's environment, secrets, volumes and nodes into fields of Kubernetes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Any

from qt_jax.errors import UserError

NAME = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
"""A pattern of names that every object of Kubernetes may have."""
_LABEL = "[A-Za-z0-9][-A-Za-z0-9_./]*"
_BUCKET = "[a-z0-9][-a-z0-9_.]*"
_OBJECT = "[a-z0-9]([-.a-z0-9]*[a-z0-9])?"
_LASTING = ("pvc", "nfs")  # not gcs: a mounted bucket does not do what a file system promises; use gs://
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def literal(text: str) -> str:
    """Returns the text so that it is the same again once Kubernetes has replaced $(NAME) and $$ in it."""
    return text.replace("$", "$$")


def environment(env: Sequence[str], secrets: Sequence[str]) -> dict[str, Any]:
    """Returns a container's `env` and `envFrom`.

    Args:
        env: arguments NAME=VALUE.
        secrets: names of secrets, each of whose keys becomes a variable.

    Raises:
        UserError: for what Kubernetes would not take.

    """
    fields: dict[str, Any] = {}
    if "JOB_COMPLETION_INDEX" in _once("--env", [_variable(argument)[0] for argument in env]):
        raise UserError("--env=JOB_COMPLETION_INDEX: Kubernetes sets it, for each pod its own; leave it out.")
    if env:
        fields["env"] = [{"name": name, "value": literal(value)} for name, value in map(_variable, env)]
    if secrets:
        fields["envFrom"] = [{"secretRef": {"name": _object(f"--secret={name}", name)}} for name in secrets]
    return fields


def _variable(argument: str) -> tuple[str, str]:
    name, equals, value = argument.partition("=")
    if not equals or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise UserError(
            f"--env={argument}: expected NAME=VALUE, such as XLA_FLAGS=--xla_gpu_enable_triton_gemm=false."
        )
    return name, value


def _once(what: str, names: Sequence[str]) -> Sequence[str]:
    """Returns the names; raises a UserError for one that is there twice (Kubernetes would take the last)."""
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise UserError(f"{what} is given twice for {twice[0]}; give it once.")
    return names


def labels(selectors: Sequence[str], taken: Sequence[str] = ()) -> dict[str, str]:
    """Returns {label: value} that nodes must have.

    Args:
        selectors: arguments LABEL=VALUE.
        taken: labels that have a value already.

    Raises:
        UserError: for what Kubernetes would not take, and for a label that has two values.

    """
    found = {}
    for argument in selectors:
        label, equals, value = argument.partition("=")
        given = f"--node-selector={argument}"
        if not (equals and re.fullmatch(_LABEL, label) and re.fullmatch("[-A-Za-z0-9_.]*", value)):
            raise UserError(f"{given}: expected LABEL=VALUE, such as cloud.google.com/gke-spot=true.")
        if label in taken:
            raise UserError(f"{given}: --accelerator and --topology give it; leave it out.")
        found[label] = value
    _once("--node-selector", [argument.partition("=")[0] for argument in selectors])
    return found


def tolerations(arguments: Sequence[str]) -> list[dict[str, str]]:
    """Returns a pod's `tolerations`.

    Args:
        arguments: taints as kubectl writes them: KEY, KEY=VALUE, KEY:EFFECT or KEY=VALUE:EFFECT.

    Raises:
        UserError: for an argument of another form.

    """
    found = []
    for argument in arguments:
        match = re.fullmatch(f"({_LABEL})(=[-A-Za-z0-9_.]*)?(:[A-Za-z]+)?", argument)
        if not match or (match[3] and match[3][1:] not in _EFFECTS):
            raise UserError(
                f"--toleration={argument}: expected KEY, KEY=VALUE or KEY=VALUE:EFFECT with one of "
                f"{', '.join(_EFFECTS)}."
            )
        value = {"operator": "Equal", "value": match[2][1:]} if match[2] else {"operator": "Exists"}
        found.append({"key": match[1], **value} | ({"effect": match[3][1:]} if match[3] else {}))
    return found


def volumes(arguments: Sequence[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns a pod's `volumes` and its container's `volumeMounts`.

    Args:
        arguments: KIND/NAME:/PATH, such as pvc/datasets:/data.

    Raises:
        UserError: for an unknown kind, a bad name, or two volumes at one path.

    """
    sources, mounts = [], []
    for number, argument in enumerate(arguments):
        kind, name, path = _volume(argument)
        sources.append({"name": f"volume-{number}"} | _source(argument, kind, name))
        mounts.append({"name": f"volume-{number}", "mountPath": path})
    _once("--volume", [mount["mountPath"] for mount in mounts])
    return sources, mounts


def lasting(arguments: Sequence[str]) -> list[str]:
    """Returns the paths of those volumes that outlive a pod."""
    return [path for kind, _, path in map(_volume, arguments) if kind in _LASTING]


def _volume(argument: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"(\w+)/([^:]+):(/[^:]+)", argument)
    if not match:
        raise UserError(f"--volume={argument}: expected KIND/NAME:/PATH, such as pvc/datasets:/data.")
    return match[1], match[2], posixpath.normpath(match[3])


def _source(argument: str, kind: str, name: str) -> dict[str, Any]:
    given = f"--volume={argument}"
    if kind == "pvc":
        return {"persistentVolumeClaim": {"claimName": _object(given, name)}}
    if kind == "secret":
        return {"secret": {"secretName": _object(given, name)}}
    if kind == "configmap":
        return {"configMap": {"name": _object(given, name)}}
    if kind == "gcs" and re.fullmatch(_BUCKET, name):
        return {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": {"bucketName": name}}}
    if kind == "nfs" and "/" in name:
        server, _, export = name.partition("/")
        return {"nfs": {"server": server, "path": f"/{export}"}}
    if kind == "memory" and re.fullmatch(r"\d+(\.\d+)?([KMGT]i?)?", name):
        return {"emptyDir": {"medium": "Memory", "sizeLimit": name}}
    raise UserError(
        f"{given}: expected one of pvc/CLAIM, gcs/BUCKET, nfs/SERVER/EXPORT, secret/NAME, configmap/NAME and "
        "memory/SIZE (such as 8Gi), then :/PATH."
    )


def _object(argument: str, name: str) -> str:
    if not re.fullmatch(_OBJECT, name):
        expected = "expected lower-case letters, digits, dashes and dots"
        raise UserError(f"{argument}: {name!r} is no name of Kubernetes; {expected}.")
    return name
