"""Hostile tokenizers, and hostile weights to import; in the style of `hostile.py`."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

from fpm_cli.tokenization.store import fingerprint_of
from tests.torture.hostile import DEEP, Attack, Payload, header, torch_zip
from tests.torture.hostile_parts import SECRET, Document, both, edited, endless, linked, pipe, put

# --- a tokenizer: tokenizer.meta.json and tokenizer.json


def refingered(edit: Callable[[Document, dict[str, bytes]], object]) -> Attack:
    """The meta file and the model changed, with a fingerprint that agrees."""

    def attack(folder: Path, outside: Path, payload: Payload) -> None:
        meta = json.loads((folder / "tokenizer.meta.json").read_text())
        files = {name: (folder / name).read_bytes() for name in meta["files"]}
        edit(meta, files)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        meta["fingerprint"] = fingerprint_of(meta["kind"], meta["options"], files)
        (folder / "tokenizer.meta.json").write_text(json.dumps(meta))

    return attack


def model(edit: Callable[[Document], object]) -> Attack:
    """The Hugging Face tokenizer.json changed, with a fingerprint that agrees."""

    def change(meta: Document, files: dict[str, bytes]) -> None:
        document = json.loads(files["tokenizer.json"])
        edit(document)
        files["tokenizer.json"] = json.dumps(document).encode()

    return refingered(change)


def content(made: bytes) -> Attack:
    return refingered(lambda meta, files: files.update({"tokenizer.json": made}))


SLOW = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
TOKENIZER: dict[str, Attack] = {
    **{
        f"the meta file names {name!r}": edited(
            "tokenizer.meta.json", lambda meta, name=name: meta["files"].append(name)
        )
        for name in (f"../outside/{SECRET}", "/etc/hostname", "..", "a/../../b", "\0")
    },
    **{f"{name} is a link": linked(name) for name in ("tokenizer.json", "tokenizer.meta.json")},
    **{f"{name} is a pipe": pipe(name) for name in ("tokenizer.json", "tokenizer.meta.json")},
    **{f"{name} is endless": endless(name) for name in ("tokenizer.json", "tokenizer.meta.json")},
    **{f"{name} is a pickle": put(name, pickle.dumps) for name in ("tokenizer.json", "tokenizer.meta.json")},
    "the meta file is deep": put("tokenizer.meta.json", lambda _: DEEP),
    "a model that is deep": content(DEEP),
    "a model that is a pickle": content(b"\x80\x04."),
    "a claimed vocabulary of 10^15": edited(
        "tokenizer.meta.json", lambda meta: meta.update(vocab_size=10**15)
    ),
    "a claimed vocabulary without end": edited(
        "tokenizer.meta.json", lambda meta: meta.update(vocab_size=float("inf"))
    ),
    "another kind": refingered(lambda meta, files: meta.update(kind="gpt-zh")),
    "a kind that is a path": refingered(lambda meta, files: meta.update(kind="../outside")),
    "a regular expression that takes for ever": model(lambda d: d.update(pre_tokenizer=SLOW)),
    "an added token with an id of 10^9": model(
        lambda d: d.update(added_tokens=[{"id": 10**9, "content": "a", "special": True}])
    ),
    "an id of 10^15": model(lambda d: d["model"]["vocab"].update({"far": 10**15})),
    "an id below 0": model(lambda d: d["model"]["vocab"].update({"below": -1})),
    "ids that are texts": model(lambda d: d["model"].update(vocab=dict.fromkeys(d["model"]["vocab"], "x"))),
    "a vocabulary that is a list": model(lambda d: d["model"].update(vocab=[5, 6, 7])),
    "a vocabulary that is a number": model(lambda d: d["model"].update(vocab=7)),
}


# --- weights to import: config.json and model.safetensors


def config(**values: object) -> Attack:
    return edited("config.json", lambda document: document.update(values))


def shards(*names: object) -> Attack:
    weight_map = {f"tensor-{number}": name for number, name in enumerate(names)}
    return put("model.safetensors.index.json", lambda _: json.dumps({"weight_map": weight_map}).encode())


def no_weights(*others: Attack) -> Attack:
    def attack(folder: Path, outside: Path, payload: Payload) -> None:
        (folder / "model.safetensors").unlink()
        for other in others:
            other(folder, outside, payload)

    return attack


def code(payload: Payload) -> bytes:
    return f"from pathlib import Path\nPath({str(payload.witness)!r}).touch()\n".encode()


# Links are followed here: in the hub's cache each file is one.
AUTO = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForPreTraining": "evil.Model"}
BOMB = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
IMPORT: dict[str, Attack] = {
    "pickled weights only": no_weights(put("pytorch_model.bin", torch_zip)),
    "pickled weights beside": put("pytorch_model.bin", torch_zip),
    "a pickle as safetensors": put("model.safetensors", torch_zip),
    "a pickle as config.json": put("config.json", pickle.dumps),
    "code that config.json names": both(config(auto_map=AUTO), put("evil.py", code)),
    "code that config.json trusts": both(
        config(auto_map=AUTO, trust_remote_code=True),
        put("evil.py", code),
        put("configuration_evil.py", code),
    ),
    "code for generation": both(put("custom_generate/generate.py", code), put("modeling_bert.py", code)),
    "another place's kernels": config(
        _attn_implementation="kernels/evil", attn_implementation="kernels/evil"
    ),
    "an adapter of a model outside": put(
        "adapter_config.json", lambda _: json.dumps({"base_model_name_or_path": "../outside"}).encode()
    ),
    "a quantiser": config(quantization_config={"quant_method": "gptq", "bits": 4}),
    **{
        f"shards named {name!r}": shards(name)
        for name in (f"../outside/{SECRET}", "/etc/hostname", "..", 7, "\0")
    },
    "shards that are a list": put("model.safetensors.index.json", lambda _: b'{"weight_map": []}'),
    "the index is deep": put("model.safetensors.index.json", lambda _: DEEP),
    "config.json is deep": put("config.json", lambda _: DEEP),
    "config.json is a pipe": pipe("config.json"),
    "config.json is endless": endless("config.json"),
    "the weights are a pipe": pipe("model.safetensors"),
    "a header without end": put("model.safetensors", lambda _: b"\xff" * 64),
    "a header that reaches beyond the file": put("model.safetensors", lambda _: header(BOMB)),
    "a header that is deep": put("model.safetensors", lambda _: len(DEEP).to_bytes(8, "little") + DEEP),
    "a vocabulary of 10^12": config(vocab_size=10**12),
    "10^9 layers": config(num_hidden_layers=10**9),
    "10^12 positions": config(max_position_embeddings=10**12),
    "10^12 labels": config(num_labels=10**12),
    "no heads": config(num_attention_heads=0),
    "half a layer": config(num_hidden_layers=0.5),
    "a kind that is a list": config(model_type=["bert"]),
    "the tokenizer is deep": put("tokenizer.json", lambda _: DEEP),
    "the tokenizer is a list": put("tokenizer.json", lambda _: b"[]"),
    "the tokenizer's regular expression takes for ever": put(
        "tokenizer.json", lambda _: json.dumps({"model": {"type": "BPE"}, "pre_tokenizer": SLOW}).encode()
    ),
}
