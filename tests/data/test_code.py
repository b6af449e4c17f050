"""The digest of functions changes with anything that they do, and with nothing else."""

import functools
import subprocess
import sys
import types

import numpy as np
import pytest

from qt_jax.data import code, standardisers
from tests.conftest import ROOT


def made(source, name="f", **values):
    """A function of a module of the user's, which is not on disk."""
    module = types.ModuleType("lab")
    module.__file__ = "/lab/lab.py"
    module.__dict__.update(values)
    exec(source, module.__dict__)
    return module.__dict__[name]


BASE = "import numpy as np\ndef g(x):\n    return x + 1\ndef f(x):\n    return g(x) * np.sign(x)\n"


@pytest.mark.parametrize(
    "before, after, same",
    [
        (BASE, BASE.replace("def f", "# why\n\ndef f"), True),
        (BASE, BASE + "def h(x):\n    return f(x)\n", True),
        (BASE, BASE.replace("x + 1", "x + 2"), False),
        (BASE, BASE.replace("np.sign", "np.abs"), False),
        (BASE, BASE.replace("def g", "@functools.cache\ndef g"), True),
        ("f = lambda x: x + 1", "f = lambda x: x + 2", False),
        ("K = 1\nf = lambda x: x + K", "K = 2\nf = lambda x: x + K", False),
        ("K = [1, {'a': 2}]\nf = lambda x: K", "K = [1, {'a': 3}]\nf = lambda x: K", False),
        ("def f(x, y=1):\n    return x", "def f(x, y=2):\n    return x", False),
        ("f = functools.partial(max, 1)", "f = functools.partial(max, 2)", False),
        ("def m(k):\n    return lambda x: x * k\nf = m(1)",
         "def m(k):\n    return lambda x: x * k\nf = m(2)", False),
        ("class C:\n    k = 1\n    def __call__(self, x): return self.k\nf = C()",
         "class C:\n    k = 2\n    def __call__(self, x): return self.k\nf = C()", False),
        ("class C:\n    def go(self): return 1\ndef f(x):\n    return C().go()",
         "class C:\n    def go(self): return 2\ndef f(x):\n    return C().go()", False),
        ("K = np.zeros(3)\nf = lambda x: K", "K = np.ones(3)\nf = lambda x: K", False),
        ("f = lambda x: [y + 1 for y in x]", "f = lambda x: [y - 1 for y in x]", False),
        ("def f(x):\n    return f(x - 1) if x else 0", "def f(x):\n    return f(x - 1) if x else 1", False),
    ],
)  # fmt: skip
def test_what_changes_the_digest(before, after, same):
    one, other = (code.digest(made(source, functools=functools, np=np)) for source in (before, after))
    assert (one == other) is same and one == code.digest(made(before, functools=functools, np=np))


def test_a_module_imported_within_a_function_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    found = []
    for factor in (1, 2):
        (tmp_path / "late_units.py").write_text(f"FACTOR = {factor}\n")
        found.append(code.digest(made("def f(x):\n    import late_units\n    return x * late_units.FACTOR")))
    assert found[0] != found[1]


def test_another_process_finds_the_same():
    script = "from qt_jax.data import code, standardisers; print(code.digest(standardisers.fractal_arm))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == code.digest(standardisers.fractal_arm)
