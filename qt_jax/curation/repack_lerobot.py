"""Copies a LeRobot folder into the form that training reads fastest: a row group an episode, near key frames.

The rows stay as they are. Videos are copied byte for byte, or encoded again with more key frames, which loses
a little quality.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tqdm

from qt_jax.data import lerobot, lerobot_meta
from qt_jax.data.lerobot_meta import Entry
from qt_jax.data.stored import BadRecord
from qt_jax.data.video import length_s
from qt_jax.errors import UserError

os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 says nothing but errors then; x265 has an option for it
ENCODERS = {
    "h264": ("libx264", {"crf": "18"}),
    "hevc": ("libx265", {"crf": "18", "x265-params": "log-level=error"}),
    "av1": ("libsvtav1", {"crf": "20"}),
    "vp9": ("libvpx-vp9", {"crf": "18", "b": "0"}),
}
"""{codec: (FFmpeg's encoder, its options)}, hardly to be told from the original."""


def repack(source: str, target: str, keyframes: int) -> tuple[Path, int, int]:
    """Copies the LeRobot folder `source` to `target`.

    Args:
        source: the folder.
        target: a folder that is not there.
        keyframes: a key frame every so many frames; 0: the videos are copied.

    Returns:
        The new folder, the number of episodes, and the bytes of its files.

    Raises:
        UserError: if the target exists, or a file is missing, damaged or of a codec that cannot be written.
    """
    meta = lerobot_meta.read(Path(source).expanduser().resolve())
    path = Path(target).expanduser().resolve()
    if path.exists():
        raise UserError(f"{path} exists; delete it or choose another --output.", topic="output-exists")
    work = path.with_name(f"{path.name}.incomplete_repack")
    shutil.rmtree(work, ignore_errors=True)  # what an earlier attempt left

    files: dict[str, list[Entry]] = {}
    for entry in meta.entries:
        files.setdefault(entry.file, []).append(entry)
    videos = sorted({clip.path for entry in meta.entries for clip in entry.clips.values()})
    with tqdm.tqdm(total=len(files) + len(videos), desc="repack", unit="file") as progress:
        for name, entries in files.items():
            copy_rows(meta.root, work, name, entries)
            progress.update()
        for name in videos:
            _copy_video(meta.root / name, work / name, keyframes)
            progress.update()
    shutil.copytree(meta.root / "meta", work / "meta")
    work.rename(path)
    return path, len(meta), sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _same(entry: Entry, rows: Any) -> Any:
    return rows


def copy_rows(
    root: Path,
    work: Path,
    name: str,
    entries: list[Entry],
    change: Callable[[Entry, Any], Any] = _same,
) -> None:
    """Writes a copy of a Parquet file with a row group for each episode.

    Args:
        root: of the dataset.
        work: of the copy.
        name: of the file, below both.
        entries: the file's episodes.
        change: (episode, its rows as a table) -> the rows of the copy.

    Raises:
        UserError: if the file is missing or damaged.

    """
    import pyarrow.parquet as pq

    copy = work / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    writer: Any = None
    try:
        for entry in entries:
            rows = lerobot.rows(root, entry)
            if writer is None:
                metadata = pq.read_schema(root / name).metadata  # that of Hugging Face's datasets
            rows = change(entry, rows.replace_schema_metadata(metadata))
            if writer is None:
                writer = pq.ParquetWriter(copy, rows.schema)
            writer.write_table(rows)
    except BadRecord as error:
        raise UserError(f"{root}: {name}, episode {entry.number}: {error}.") from error
    finally:
        if writer is not None:
            writer.close()


def _copy_video(video: Path, copy: Path, keyframes: int) -> None:
    """Copies a video, or encodes its frames again, each at its own time."""
    import av

    if not video.exists():
        raise UserError(f"{video} is missing; copy the dataset again.")
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        if not keyframes:
            length_s(str(video))  # raises where it cannot be opened
            shutil.copyfile(video, copy)
            return
        with av.open(str(video)) as original, av.open(str(copy), "w") as container:
            source: Any = original.streams.video[0]
            codec = source.codec_context.codec.canonical_name
            if codec not in ENCODERS:
                raise UserError(
                    f"{video} is {codec}, --keyframes writes one of {sorted(ENCODERS)}; leave it out."
                )
            encoder, options = ENCODERS[codec]
            options = options | {"g": str(keyframes)}
            stream: Any = container.add_stream(encoder, source.average_rate, options=options)
            stream.width, stream.height, stream.pix_fmt = source.width, source.height, source.pix_fmt
            stream.time_base = stream.codec_context.time_base = source.time_base
            for frame in original.decode(source):
                frame.pict_type = av.video.frame.PictureType.NONE  # the encoder chooses the key frames
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except (OSError, av.FFmpegError) as error:
        failed = "encoded again" if keyframes else "opened"
        raise UserError(f"{video} cannot be {failed} ({error}); copy it again.") from error
