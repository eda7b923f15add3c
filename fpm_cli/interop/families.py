"""Which family file speaks for a network, and transformers itself, which is optional."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fpm_cli.config.schema import Family, ModelConfig
from fpm_cli.errors import DamagedError, MissingError, UsageError, install_hint
from fpm_cli.foreign import parse_json, read_whole
from fpm_cli.interop import bert, gpt2, t5
from fpm_cli.interop.counterpart import Counterpart

COUNTERPARTS: dict[Family, Callable[[ModelConfig], Counterpart]] = {
    "gpt": gpt2.counterpart,
    "bert": bert.counterpart,
    "encdec": t5.counterpart,
}
_READERS: dict[str, tuple[Family, Callable[[Mapping[str, Any]], ModelConfig]]] = {
    "gpt2": ("gpt", gpt2.read_config),
    "bert": ("bert", bert.read_config),
    "megatron-bert": ("bert", bert.read_config),
    "t5": ("encdec", t5.read_config),
    "mt5": ("encdec", t5.read_config),
    t5.MODEL_TYPE: ("encdec", t5.read_config),
}
_UNTOLD = ("auto_map", "quantization_config", "num_labels", "id2label", "label2id", "experts_implementation")


def read_config(document: Mapping[str, Any]) -> tuple[Family, ModelConfig]:
    """The family and configuration of the network that a config.json describes.

    Raises:
        UsageError: fpm has no such network.
        DamagedError: a size is missing, or is none.
    """
    kind = document.get("model_type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise UsageError(f"config.json: model_type is {kind!r}; fpm reads {', '.join(_READERS)}")
    family, read = _READERS[kind]
    try:
        return family, read(document)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise DamagedError(f"config.json does not describe a network: {error}") from error


def load_transformers() -> ModuleType:
    """The library, told to be quiet.

    Raises:
        MissingError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingError(
            "transformers is not installed, and the logits are compared with it: "
            + install_hint("transformers")
        ) from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    module: ModuleType = transformers
    return module


def load_counterpart(counterpart: Counterpart, folder: Path) -> Any:
    """The network in `folder` through transformers, in float32 and evaluation mode; no code in it is run.

    Of its config.json, transformers is given what says how to compute; not what has it fetch
    kernels or code, quantise, or make a name for each of any number of labels.

    Raises:
        DamagedError: transformers does not read the folder.
        MissingError: transformers is not installed.
    """
    library = load_transformers()
    if counterpart.architecture == "UntiedT5":
        from fpm_cli.interop import untied_t5 as library
    network = getattr(library, counterpart.architecture)
    document = parse_json(read_whole(folder / "config.json"))
    said = {k: v for k, v in document.items() if k not in _UNTOLD and not k.startswith(("_", "attn_impl"))}
    try:
        model = network.from_pretrained(
            folder,
            config=network.config_class.from_dict(said),
            local_files_only=True,
            use_safetensors=True,
            dtype="float32",
            trust_remote_code=False,
        )
    except Exception as error:  # whatever another library says of somebody's files
        raise DamagedError(f"transformers does not read {folder}: {error}") from error
    return model.eval()
