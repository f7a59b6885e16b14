"""nanoGPT's ``train.bin`` and ``val.bin``: little-endian uint16 and nothing else. ``meta.pkl`` is never opened."""

from pathlib import Path

from mypt_dist.data.foreign.dataset import ForeignDataset, RawFile, first_bytes, raw_dataset
from mypt_dist.data.foreign.llmc import HEADER_BYTES, has_header


class NanoGpt:
    name = "nanogpt"
    title = "train.bin and val.bin of nanoGPT"

    def recognises(self, path: Path) -> bool:
        return any(not has_header(first_bytes(file, HEADER_BYTES)) for file in _files(path).values())

    def open(self, path: Path) -> ForeignDataset:
        raw = {split: (RawFile.rest_of(file, "<u2"),) for split, file in _files(path).items()}
        hint = "say which it was written with: --tokenizer gpt2"
        if (path / "meta.pkl").exists():
            hint = (
                f"{path}/meta.pkl knows its characters, but to open a pickle is to run what is in it; they are read "
                "from the text instead: --tokenizer char:input.txt"
            )
        return raw_dataset(self.name, raw, tokenizer_hint=hint)


def _files(path: Path) -> dict[str, Path]:
    found = {split: path / f"{split}.bin" for split in ("train", "val")}
    return {split: file for split, file in found.items() if file.is_file() and not file.with_suffix(".idx").exists()}
