"""Every choice that decides the bytes of a corpus, besides its inputs and its tokenizer."""

from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fpm_cli.encodings import check_encoding
from fpm_cli.errors import UsageError
from fpm_cli.streams import MIB

Source = Literal["text", "jsonl", "pile", "wudao", "stc", "hf"]
SOURCES: tuple[Source, ...] = get_args(Source)


class BuildOptions(BaseModel):
    """What to read, what to drop and how to split; a number that is 0 switches its filter off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source
    text_field: str = Field("text", description="the field that holds the text (jsonl, pile, wudao, hf)")
    id_field: str = Field("", description="a document whose id was seen before is dropped; empty: no ids")
    document: Literal["paragraph", "line", "file"] = Field(
        "paragraph", description="text: what one document is"
    )
    encoding: str = Field("", description="how to read files that are not UTF-8; empty: not at all")
    hf_splits: tuple[str, ...] = Field(("train",), description="splits of a data set to read; none: all")
    join_characters: int = Field(
        0, ge=0, description="text: paragraphs are joined into documents of at least so many characters"
    )
    max_document_bytes: int = Field(
        32 * MIB, gt=0, description="a longer line or record is skipped and counted, in constant memory"
    )
    max_expansion: int = Field(
        250, gt=0, description="an archive that grows more than so many times, past 64 MiB, is cut there"
    )
    max_invalid: float = Field(
        0.01, ge=0, le=1, description="largest share of invalid characters in a document, if more than one"
    )
    min_characters: int = Field(1, ge=1, description="shorter documents are dropped")
    max_characters: int = Field(0, ge=0, description="longer documents are dropped")
    min_density: float = Field(
        0, ge=0, le=1, description="least share of letters, ideographs and digits among the characters"
    )
    max_repetition: float = Field(
        0, ge=0, le=1, description="largest share of characters in lines that the document has had before"
    )
    language: Literal["", "en", "zh"] = Field("", description="drop documents mostly in another script")
    pile_partitions: tuple[str, ...] = Field((), description="two-digit files read from a folder; none: all")
    exclude_sets: tuple[str, ...] = Field((), description="values of meta.pile_set_name that are dropped")
    drop_trivial: bool = Field(False, description="drop dialogues with a trivial first response")
    drop_advertisements: bool = Field(False, description="drop dialogues with links, numbers to call, offers")
    max_responses: int = Field(0, ge=0, description="dialogues kept among those with the same first turn")
    contamination: str = Field(
        "", description="fingerprint of the evaluation texts whose documents are dropped; empty: none"
    )
    near_duplicates: float = Field(
        0.8,
        ge=0,
        le=1,
        description="drop a document so similar to another (Jaccard, shingles)",
    )
    validation_fraction: float = Field(0.01, ge=0, le=0.5)


# What the paper did with each corpus (`--filters paper`); the other sources have nothing of its own.
PAPER: dict[str, dict[str, Any]] = {
    "pile": {
        "pile_partitions": ("02", "03", "04", "17"),
        "exclude_sets": ("StackExchange", "Github"),
    },
    "wudao": {"min_density": 0.7},
    "stc": {"drop_trivial": True, "drop_advertisements": True, "max_responses": 30},
}
# What the format itself asks for, whatever the filters.
FORMAT: dict[str, dict[str, Any]] = {
    "wudao": {"text_field": "content", "id_field": "uniqueKey"},
    "stc": {"near_duplicates": 0.0},  # short turns resemble each other without being copies
}


def build_options(source: Source, filters: Literal["paper", "none"] = "paper", **chosen: Any) -> BuildOptions:
    """The source's defaults with the user's choices over them; None means no choice."""
    values = {**FORMAT.get(source, {}), **(PAPER.get(source, {}) if filters == "paper" else {})}
    values |= {key: value for key, value in chosen.items() if value is not None}
    if values.get("encoding"):
        check_encoding(values["encoding"])
    if values.get("join_characters") and values.get("document", "paragraph") != "paragraph":
        raise UsageError("--join-characters joins paragraphs: it does not go with --document line or file")
    try:
        return BuildOptions(source=source, **values)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "-".join(map(str, first["loc"])).replace("_", "-")
        raise UsageError(f"--{flag} {first['input']!r}: {first['msg']}") from None
