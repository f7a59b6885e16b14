"""Launch files, found by name or path and read strictly."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from mypt_dist.config import Config, validate
from mypt_dist.config.presets import folder, names
from mypt_dist.config.problems import near_miss
from mypt_dist.config.strict_json import parse_json, read_text
from mypt_dist.config.strict_yaml import parse_yaml
from mypt_dist.errors import ConfigError
from mypt_dist.launch.accelerate_file import AccelerateFile
from mypt_dist.launch.deepspeed_file import DeepSpeedFile
from mypt_dist.launch.topology import EngineName, Topology

C = TypeVar("C", bound=Config)

ZERO: dict[int, EngineName] = {1: "zero1", 2: "zero2", 3: "zero3"}


@dataclass(frozen=True, slots=True)
class LaunchFile:
    """What a launch file says, valid in itself."""

    name: str
    """As in `mypt launch NAME`."""
    path: Path
    """The YAML for `accelerate launch`."""
    description: str
    settings: AccelerateFile
    deepspeed_path: Path | None = None
    """DeepSpeed's own JSON, if the YAML points to one."""
    deepspeed: DeepSpeedFile | None = None

    @property
    def engine(self) -> EngineName:
        """How ranks share the model, if there are several."""
        match self.settings.distributed_type:
            case "NO":
                return "single"
            case "MULTI_GPU":
                return "ddp"
            case "FSDP":
                return "hsdp" if self.replicas > 1 else "fsdp2"
        return ZERO[self.stage]

    @property
    def replicas(self) -> int:
        mesh = self.settings.parallelism_config
        return mesh.parallelism_config_dp_replicate_size if mesh else 1

    @property
    def stage(self) -> int:
        """Of ZeRO; 0 without DeepSpeed."""
        if self.deepspeed is not None:
            return self.deepspeed.zero_optimization.stage
        section = self.settings.deepspeed_config
        return section.zero_stage or 0 if section else 0

    def topology(self, ranks: int, replicas: int | None = None) -> Topology:
        """Of ``ranks`` ranks over all machines, ``replicas`` instead of the file's if given. Not checked."""
        fsdp = self.settings.fsdp_config
        replicas = replicas or self.replicas
        engine = self.engine
        if engine == "ddp" and ranks == 1:
            engine = "single"
        elif fsdp is not None:
            engine = "hsdp" if replicas > 1 else "fsdp2"
        optimizer, parameters = self._offloaded()
        return Topology(
            engine=engine,
            ranks=ranks,
            replicas=replicas,
            reshard_after_forward=fsdp is None or fsdp.fsdp_reshard_after_forward,
            offload_optimizer=optimizer,
            offload_parameters=parameters,
        )

    def _offloaded(self) -> tuple[bool, bool]:
        """Whether optimizer state and weights are kept in host memory."""
        if self.settings.fsdp_config is not None:
            return (self.settings.fsdp_config.fsdp_offload_params,) * 2
        if self.deepspeed is not None:
            zero = self.deepspeed.zero_optimization
            optimizer, parameters = (s.device if s else None for s in (zero.offload_optimizer, zero.offload_param))
            return optimizer == "cpu", parameters == "cpu"
        section = self.settings.deepspeed_config
        if section is None:
            return False, False
        return section.offload_optimizer_device == "cpu", section.offload_param_device == "cpu"


def targets() -> Iterator[LaunchFile]:
    """Every shipped launch file, in the order of names."""
    for name in sorted(_shipped()):
        yield read_launch_file(name)


def read_launch_file(target: str) -> LaunchFile:
    """The launch file that ``target`` names: a path, ``NAME`` of a shipped one, or ``deepspeed/NAME`` of a JSON.

    Raises one `ConfigError` that lists every problem, of DeepSpeed's own file too.
    """
    name, path = _find(target)
    target_is_json = path.suffix == ".json"
    own_json = path if target_is_json else None
    if target_is_json:
        path = folder("launch") / "accelerate/deepspeed.yaml"
    text = read_text(path)
    mapping = _mapping(parse_yaml(text, str(path)), path)
    if not target_is_json and (pointer := _pointer(mapping)):
        own_json = path.parent / pointer
    found: list[str] = []
    settings = _valid(AccelerateFile, mapping, path, found)
    deepspeed = None
    if own_json is not None:
        content = _mapping(parse_json(read_text(own_json), str(own_json)), own_json)
        deepspeed = _valid(DeepSpeedFile, content, own_json, found)
    if settings is None or found:
        raise ConfigError("\n".join(found))
    launch_file = LaunchFile(name, path, _first_comment(text), settings, own_json, deepspeed)
    if target_is_json:
        return replace(launch_file, description=f"As zero{launch_file.stage}, by DeepSpeed's own file.")
    return launch_file


def _find(target: str) -> tuple[str, Path]:
    """Name and path."""
    given = Path(target)
    if given.is_file():
        return given.stem, given
    shipped = _shipped()
    wanted = given.with_suffix("") if given.suffix in (".json", ".yaml") else given
    name = wanted.as_posix().removeprefix("accelerate/")
    if name not in shipped:
        hint = near_miss(name, shipped)
        raise ConfigError(f"{target!r} is neither a file nor a launch target{hint} (see: mypt launch --list)")
    return name, next(folder("launch").glob(f"{shipped[name]}.*"))


def _shipped() -> dict[str, str]:
    """Files below `launch/` by the name of their target."""
    found = (name for name in names("launch") if name.startswith(("accelerate/", "deepspeed/")))
    return {name.removeprefix("accelerate/"): name for name in found}


def _mapping(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(content).__name__}")
    return content


def _pointer(mapping: dict[str, Any]) -> str | None:
    section = mapping.get("deepspeed_config")
    pointer = section.get("deepspeed_config_file") if isinstance(section, dict) else None
    return pointer if isinstance(pointer, str) else None


def _valid(schema: type[C], mapping: dict[str, Any], path: Path, found: list[str]) -> C | None:
    try:
        return validate(schema, mapping, str(path))
    except ConfigError as error:
        found.append(str(error))
        return None


def _first_comment(text: str) -> str:
    """What the file says of itself in its first line."""
    first = text.partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
