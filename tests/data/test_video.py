"""Frames of a video by time: the same as decoding it whole, whatever lies between key frames."""

import av
import numpy as np
import pytest

from qt_jax.data import images, video
from qt_jax.data.video import BadImage, Clip, Traffic

FPS, FRAMES = 10, 48


@pytest.fixture(
    scope="module", params=[("libx264", "bf=3"), ("libx264", "bf=3:open-gop=1"), ("libx265", "open-gop=1")]
)
def clip(request, tmp_path_factory):
    """48 frames, a key frame every 16, with frames between them that refer to later ones."""
    encoder, parameters = request.param
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    rng = np.random.default_rng(0)
    options = {
        "g": "16",
        f"{encoder.removeprefix('lib')}-params": f"scenecut=0:keyint=16:{parameters}:log-level=none",
    }
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(FRAMES):
            pixels = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())
    return Clip(str(path), np.arange(FRAMES) / FPS, 0.01)


@pytest.fixture(scope="module")
def whole(clip):
    with av.open(clip.path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_parts_are_those_of_the_whole(clip, whole):
    for start in range(FRAMES):
        found = list(clip[start : start + 5].frames())
        np.testing.assert_array_equal(found, whole[start : start + 5], err_msg=str(start))
    np.testing.assert_array_equal(images.decode(clip[-1]), whole[-1])
    assert list(clip[3:3].frames()) == [] and len(list(clip)) == FRAMES
    with pytest.raises(IndexError):
        clip[FRAMES]


def test_two_clips_of_a_video_are_read_at_once(clip, whole):
    for number, (one, other) in enumerate(zip(clip[:20].frames(), clip[20:40].frames())):
        np.testing.assert_array_equal(one, whole[number])
        np.testing.assert_array_equal(other, whole[20 + number])


def test_few_videos_stay_open_and_one_that_changed_is_opened_again(clip, whole, tmp_path):
    content = open(clip.path, "rb").read()
    for number in range(video._KEPT_OPEN + 3):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(content)
        list(Clip(str(path), clip.times[:1], 0.01).frames())
    assert len(video._IDLE.videos) == video._KEPT_OPEN
    path.write_bytes(content[:99])
    with pytest.raises(BadImage, match=f"^{path} does not decode .*; copy the file again$"):
        list(Clip(str(path), clip.times[:1], 0.01).frames())


def test_times_between_frames_and_beyond_them(clip, whole):
    between = Clip(clip.path, np.asarray([0.04, 0.06, 0.11]), 0.05)
    np.testing.assert_array_equal(list(between.frames()), [whole[0], whole[1], whole[1]])
    beyond = Clip(clip.path, np.asarray([4.6, 4.7, 4.8]), 0.01)
    with pytest.raises(
        BadImage, match=r"no frame within 0.01 s of 4.8 s \(the nearest are at 4.7 s\)"
    ) as error:
        list(beyond.frames())
    assert error.value.place == 2


def test_fill_resizes_and_counts_bytes(clip):
    out = np.ones((6, 32, 32, 3), np.uint8)
    traffic = images.fill(out, clip[16:20])
    assert out[:4].any() and not out[4:].any()
    assert 0 < traffic.used <= traffic.read
    assert (
        images.fill(out, clip[20:24]).read > images.fill(out, clip[16:20]).read
    )  # from the same key frame on
    assert traffic + Traffic(1, 2) == Traffic(traffic.used + 1, traffic.read + 2)
