"""Recordings of other tools as `convert` opens them, and what the tests look at."""

import numpy as np
import simplejpeg

from qt_jax.curation import convert
from tests.conftest import run_command


def run(*arguments):
    return run_command("convert", *arguments, check=False, config="")


def source(root, kind, **flags):
    return convert.open_source(convert.Settings(input=str(root), format=kind, **flags))


def unused(opened):
    return [key.name for key in opened.keys if not key.used]


def all_of(opened):
    return list(convert.episodes(opened, opened.units, []))


def lengths_of(opened):
    return [len(episode.actions) for episode in all_of(opened)]


def names_of(opened):
    return [episode.index for episode in all_of(opened)]


def shown(jpegs):
    return np.stack([simplejpeg.decode_jpeg(image) for image in jpegs]).astype(int)
