"""``mypt data fetch``: corpora from the web or from this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mypt_dist.cli.tables import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from mypt_dist.data.sources import Fetched, FetchOptions, Sources

OnlyOption = Annotated[list[str], typer.Option("--only", metavar="KEY", help="This source alone. Repeat for more.")]
WeightOption = Annotated[
    list[str], typer.Option("--weight", metavar="KEY:W", help="Another weight than the file's. Repeat for more.")
]


def fetch(
    sources: Annotated[
        str,
        typer.Argument(metavar="SOURCES", help="A sources file, or the name of a shipped one: de-en, de-en-debian."),
    ],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for what is fetched.")] = None,
    only: OnlyOption = [],  # noqa: B006 - typer copies it
    weight: WeightOption = [],  # noqa: B006
    list_: Annotated[bool, typer.Option("--list", help="Show the sources, and fetch nothing.")] = False,
    download_only: Annotated[
        bool, typer.Option("--download-only", "--skip-extract", help="Download, and unpack nothing.")
    ] = False,
    skip_download: Annotated[bool, typer.Option("--skip-download", help="Unpack what is there already.")] = False,
    allow_host: Annotated[
        list[str],
        typer.Option(
            "--allow-host",
            metavar="HOST[:PORT]",
            help="May be asked without TLS, at this port and at a private address. Repeat for more.",
        ),
    ] = [],  # noqa: B006
    lock: Annotated[
        Path | None, typer.Option("--lock", metavar="FILE", help="The lock file. Default: beside SOURCES.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=32, help="Downloads at once.")] = 4,
    max_gb: Annotated[float, typer.Option("--max-gb", min=0, help="The most that one download may have.")] = 100,
    max_unpacked_gb: Annotated[
        float, typer.Option("--max-unpacked-gb", min=0, help="The most that the archives of one source may become.")
    ] = 500,
    max_files: Annotated[
        int, typer.Option("--max-files", min=1, help="The most files and folders in the archives of one source.")
    ] = 200_000,
    max_hours: Annotated[
        float, typer.Option("--max-hours", min=0, help="The longest that one download may take.")
    ] = 24,
    as_json: JsonOption = False,
) -> None:
    """Download the corpora of a sources file, check them and unpack them. Goes on where an earlier call ended."""
    from mypt_dist import log
    from mypt_dist.cli.progress import byte_progress
    from mypt_dist.data.archives import ExtractionLimits
    from mypt_dist.data.sources import FetchOptions, fetch, read_sources
    from mypt_dist.data.sources.pace import Pace
    from mypt_dist.errors import ConfigError

    log.install()
    found = read_sources(sources)
    options = FetchOptions(
        only=only,
        weights=weights_of(weight),
        allow_hosts=[_host(host) for host in allow_host],
        downloads=not skip_download,
        unpacks=not download_only,
        parallel=parallel,
        max_bytes=int(max_gb * 10**9),
        limits=ExtractionLimits(max_bytes=int(max_unpacked_gb * 10**9), max_entries=max_files),
        pace=Pace(whole_s=max_hours * 3600),
        lock=lock,
    )
    if list_:
        _list(found, options, as_json)
        return
    if out is None:
        raise ConfigError("say where to: --out DIR (or --list, to see what there is)")
    fetched = fetch(found, out, options, byte_progress)
    if as_json:
        print_json(fetched.model_dump(mode="json"))
    else:
        _show(fetched, out)


def weights_of(options: list[str]) -> dict[str, float]:
    """What ``--weight`` says. Raises `ConfigError`."""
    return dict(map(_weight, options))


def _weight(text: str) -> tuple[str, float]:
    from mypt_dist.errors import ConfigError

    key, _, number = text.rpartition(":")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not key or not 0 <= value < float("inf"):
        raise ConfigError(f"--weight is written KEY:W with a number from 0 on, such as opus:0.3; got {text!r}")
    return key, value


def _host(text: str) -> str:
    from mypt_dist.data.sources.config import checked_host
    from mypt_dist.errors import ConfigError

    try:
        return checked_host(text)
    except ValueError as error:
        raise ConfigError(f"--allow-host: {error}") from None


def _list(found: "Sources", options: "FetchOptions", as_json: bool) -> None:
    chosen = found.chosen(options.only or list(found.file.sources), options.weights)
    entries: list[dict[str, Any]] = [
        {
            "key": key,
            "weight": weight,
            "est_size_mb": source.est_size_mb,
            "licence": source.licence,
            "description": source.description or source.name,
        }
        for key, weight in chosen.items()
        for source in [found.file.sources[key]]
    ]
    if as_json:
        print_json(entries)
        return
    rows = [
        ["-" if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in entry.values()]
        for entry in entries
    ]
    print_table(["source", "weight", "MB", "licence", "what it is"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,g}" if value < 1000 else f"{value:,.0f}"


def _show(fetched: "Fetched", out: Path) -> None:
    rows = [
        [
            key,
            f"{source.weight:g}",
            str(len(source.downloads)),
            _number(source.texts),
            _number(source.text_bytes),
        ]
        for key, source in fetched.sources.items()
    ]
    print(f"{out}:")
    print_table(["source", "weight", "downloads", "files of text", "bytes"], rows)
