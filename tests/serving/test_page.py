"""The page for people, in a headless Chromium, of a server with an API key."""

import asyncio
import contextlib
import http.client
import threading
import time

import numpy as np
import pytest

from qt_jax.policy.observations import Keys
from qt_jax.policy.sessions import Sessions
from qt_jax.serving.access import Access
from qt_jax.serving.client import Client
from qt_jax.serving.policies import Policies, Served
from qt_jax.serving.server import Server
from tests.serving.chromium import EXECUTABLE, Chromium
from tests.serving.conftest import observations

pytestmark = pytest.mark.skipif(
    EXECUTABLE is None, reason="no Chromium is installed (apt-get install chromium)"
)
KEY = "0123456789abcdef"
MARKUP = "<img src=x onerror=\"document.title='run'\"> open it"


class Guarded:
    """A server with a key and two episodes, in a thread; robots call their camera "my camera/front"."""

    def __init__(self, artefact):
        policy = artefact.policy(capacity=2, buckets=(1,))
        policy.warm_up()
        embedding = np.ones(artefact.spec.interface.instruction_dim, np.float32)
        about = {"artefact": artefact.path.name, "training": artefact.training()}
        served = Served(Sessions(policy, lambda sentence: embedding, name="0123456789ab"), about)
        keys = Keys({"front": "my camera/front"}, ("observation/state",))
        self._server = Server(
            Policies([served], keys=keys),
            access=Access((KEY,)),
        )
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(),))
        self._thread.start()
        assert self._ready.wait(30)

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        async with self._server.listening("127.0.0.1", 0) as listening:
            self.port = listening.sockets[0].getsockname()[1]
            self.page = f"http://person:{KEY}@127.0.0.1:{self.port}/"
            self._ready.set()
            await self._ended.wait()

    def end(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(30)


@pytest.fixture(scope="module")
def guarded(artefact):
    guarded = Guarded(artefact)
    yield guarded
    guarded.end()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Chromium(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def robot(artefact, guarded):
    """A function that sends one observation under a name and gives the reply."""
    client = Client(f"ws://127.0.0.1:{guarded.port}", api_key=KEY)
    sent = observations(artefact.spec, 5, 1)[0]
    sent = {"my camera/front" if key == "observation/front" else key: value for key, value in sent.items()}
    frame = sent["my camera/front"]

    def send(name: str, **more) -> dict:
        return client.infer(sent | {"session_id": name, "return_scores": True} | more) | {"frame": frame}

    yield send
    client.disconnect()


def test_without_the_key_there_is_no_page(browser, guarded):
    for path in ("/", "/page.js", "/charts.js", "/page.css", "/state", "/state/0", "/frames/0/front"):
        server = http.client.HTTPConnection("127.0.0.1", guarded.port, timeout=10)
        with contextlib.closing(server) as connection:
            connection.request("GET", path)
            reply = connection.getresponse()
            assert reply.status == 401 and reply.getheader("WWW-Authenticate").startswith("Basic ")
    browser.open(f"http://127.0.0.1:{guarded.port}/")
    assert browser.evaluate("document.querySelector('#policy')") is None
    assert "status of 401" in browser.errors.pop()


def each(browser, selector: str, expression: str) -> list:
    """Returns the value of JavaScript for each element x of a selector."""
    return browser.evaluate(f"[...document.querySelectorAll('{selector}')].map(x => {expression})")


def test_the_page_shows_what_the_reply_says(browser, guarded, robot, artefact):
    browser.open(guarded.page)
    browser.until("document.body.dataset.state == 'idle'")
    assert browser.text("#address") == f"ws://127.0.0.1:{guarded.port}"
    assert browser.text("#keys td") == "my camera/front"

    replies = [robot("left/1 ä") for _ in range(3)]
    browser.until("document.querySelector('#when').textContent.startsWith('step 2')")
    texts = "[...d.querySelectorAll('.name, output, .bin')].map(x => x.textContent)"
    shown = browser.evaluate(f"[...document.querySelectorAll('.dim')].map(d => {texts})")
    reply, action = replies[-1], artefact.spec.interface.action
    assert [row[0] for row in shown] == list(action.names)
    np.testing.assert_allclose([float(row[1]) for row in shown], reply["actions"][0], rtol=6e-4)
    tokens = zip(reply["tokens"], action.bins)
    assert [row[2] for row in shown] == [f"bin {token + 1} of {count}" for token, count in tokens]

    best = [float(text.removeprefix("Q ")) for text in each(browser, ".best", "x.textContent")]
    np.testing.assert_allclose(best, reply["scores_of_dims"], rtol=6e-4, atol=1e-5)
    bars = each(browser, ".bins .all", "x.getAttribute('d').split('z').length - 1")
    assert bars == list(action.bins)
    highest = each(browser, ".bins .column", "x.getAttribute('x') / x.getAttribute('width')")
    np.testing.assert_allclose(highest, reply["tokens"], atol=1e-6)

    numbers = browser.text("#score .numbers")
    assert f"{reply['score']:.3g}"[:4] in numbers and "steps 0 to 2" in numbers
    assert "p50" in browser.text("#latency .numbers")
    drawn = "document.querySelector('canvas').getContext('2d').getImageData(0, 0, 32, 32).data"
    browser.until(f"{drawn}[3] == 255")  # the picture comes after the numbers
    pixels = f"[...{drawn}]"
    rgba = np.asarray(browser.evaluate(pixels), np.uint8).reshape(32, 32, 4)
    np.testing.assert_array_equal(rgba[..., :3], reply["frame"])
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate("document.querySelector('#behind').hidden")  # the policy has no behaviour head
    assert browser.errors == []


def test_probabilities_are_an_area_behind_the_bars(browser, guarded):
    """The most probable bin is as high as the drawing, 40; the first path is behind all others."""
    browser.open(guarded.page)
    draw = "bins(place, [0.1, 0.3, 0.2, 0.0], 1, '', [0.5, 0.25, 0, 0.125])"
    first = "place.querySelector('path').outerHTML"
    drawn = f"import('/charts.js').then(({{ bins }}) => {{ {draw}; return {first}; }})"
    found = browser.evaluate(f"place = document.createElement('div'); {drawn}")
    assert 'class="behind"' in found and 'd="M0 40V0H25V20H50V40H75V30H100V40z"' in found
    assert browser.errors == []


def test_instructions_are_text_and_sessions_are_chosen(browser, guarded, robot):
    browser.open(guarded.page)
    robot("one")
    browser.until("document.querySelector('#sessions').value.endsWith('.one')")
    robot("two", prompt=MARKUP)
    browser.until("document.querySelectorAll('#sessions option').length == 2")
    # The page stays with its session when another one acts.
    assert browser.evaluate("document.querySelector('#sessions').value.endsWith('.one')")

    browser.evaluate(
        "s = document.querySelector('#sessions'); s.value = s.options[1].value; "
        "s.dispatchEvent(new Event('change')); true"
    )
    shown = "document.querySelector('#instruction').textContent.includes('open it')"
    assert browser.until(f"{shown} && document.title").endswith(MARKUP)
    assert browser.text("#instruction") == f"“{MARKUP}”" and browser.evaluate("document.images.length") == 0
    assert browser.errors == []


def test_the_status_says_that_a_robot_is_acting(browser, guarded, robot):
    browser.open(guarded.page)
    deadline = time.monotonic() + 15
    while browser.text("#status") != "acting":
        assert time.monotonic() < deadline, browser.text("#status")
        robot("one")
    assert browser.evaluate("document.body.dataset.state") == "acting"
    assert browser.errors == []


def test_the_policy_of_the_page_forbids_what_it_does_not_use(browser, guarded):
    """Without this, the empty list of errors in other tests would say nothing."""
    browser.open(guarded.page)
    browser.until("document.body.dataset.state")
    markup = '<p style="color: red">x</p><img src=/x onerror="window.run=1">'
    browser.evaluate(f"document.body.insertAdjacentHTML('beforeend', '{markup}')")
    browser.until("true")
    assert sum("ContentSecurityPolicyIssue" in error for error in browser.errors) >= 2
    assert not browser.evaluate("window.run")
    browser.errors.clear()


def test_a_server_that_ends_is_said_to_be_away(browser, guarded):
    browser.open(guarded.page)
    browser.until("document.body.dataset.state == 'idle'")
    guarded.end()
    said = "document.querySelector('#status').textContent.includes('is away')"
    browser.until(f"document.body.dataset.state == 'away' && {said}")
