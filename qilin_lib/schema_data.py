"""The parameters of 01 and 02: what ChiMed is built from, the base model, its tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from qilin_lib import strict_yaml
from qilin_lib.strict import LocalPath, Outside, Part, Strict

Share = Annotated[float, Field(ge=0, lt=1, description="share held out, by hash; released code: CPT 0.05, SFT 0.01")]


# The registry's file, not its module: no package may be imported from here.
_SOURCES = strict_yaml.read(Path(__file__).parent / "chimed" / "sources.yaml")["sources"]
SourceName = Literal[tuple(source["name"] for source in _SOURCES)]


class Build(Strict):
    """01_build_chimed (paper §3.1.1, §3.2.1, §3.3.1)."""

    raw_dir: LocalPath | None = Field(description="folder with one sub-folder per source; null: the embedded sample")
    sources: list[SourceName] | None = Field(description="sub-folders to read; null: every one that is there")
    exclude_licences: list[str] = Field(description="licences not to train on, or parts of their names: CC BY-NC, GPL")
    min_chars: int = Field(ge=1, description="shorter records are rejected")
    ranked_answers: Literal["best_two", "all_pairs"] = Field(
        description="pairs of a ranked list: its best two answers, or every two of them"
    )
    max_records_per_source: int | None = Field(ge=1, description="null: all; the ledger counts what is left out")
    workers: int | None = Outside(ge=1, description="processes; null: one per core")
    near_dup_ngram: int = Field(ge=1, le=20, description="characters of a shingle")
    near_dup_threshold: float = Field(gt=0, le=1, description="Jaccard similarity from which two records are one")
    exact_substrings: Literal["remove"] | None = Field(description="cut later copies out of running text in CPT")
    exact_substring_length: int = Field(ge=10, description="characters of a copy; Lee et al. 2022: 50 tokens")
    decontaminate: bool | Literal["report"] = Field(description="drop what holds a test item; report: only count it")
    contamination_share: float = Field(gt=0, le=1, description="share of a test question's 13-grams that is a hit")
    general_share: float | None = Field(ge=0, le=1, description="share of general dialogues in SFT; null: as they come")
    heldout_share_cpt: Share
    heldout_share_sft: Share
    heldout_share_dpo: Share
    heldout_share_general: Share


class Tiny(Part):
    """Shape and brief pre-training of the built-in base model (a small LLaMA)."""

    vocab_size: int = Field(ge=512, description="pieces of its tokenizer")
    hidden_size: int = Field(ge=1, description="width of a layer")
    intermediate_size: int = Field(ge=1, description="width of the MLP; NF4 on a CPU wants multiples of 64")
    num_hidden_layers: int = Field(ge=1, le=4096, description="layers")
    num_attention_heads: int = Field(ge=1, description="query heads")
    num_key_value_heads: int = Field(ge=1, description="key and value heads")
    max_position_embeddings: int = Field(ge=16, description="longest context, tokens")
    max_steps: int = Field(ge=1, description="optimizer steps of its pre-training")
    learning_rate: float = Field(gt=0, lt=1, description="peak rate of its pre-training")
    per_device_train_batch_size: int = Field(ge=1, description="blocks per step of its pre-training")
    block_size: int = Field(ge=16, description="tokens per block of its pre-training")

    @model_validator(mode="after")
    def _possible(self) -> Tiny:
        heads, shared, context = self.num_attention_heads, self.num_key_value_heads, self.max_position_embeddings
        # Rotary positions turn the dimensions of a head in pairs.
        if self.hidden_size % (2 * heads):
            wider = self.hidden_size + -self.hidden_size % (2 * heads)
            raise ValueError(
                f"hidden_size: {self.hidden_size} is no multiple of twice num_attention_heads: {heads}; nearest valid: "
                f"hidden_size: {wider}"
            )
        if heads % shared:
            fewer = next(count for count in range(min(heads, shared), 0, -1) if heads % count == 0)
            raise ValueError(
                f"num_key_value_heads: {shared} does not divide num_attention_heads: {heads}; nearest valid: {fewer}"
            )
        if self.block_size > context:
            raise ValueError(
                f"block_size: {self.block_size} is longer than max_position_embeddings: {context}; nearest valid: "
                f"{context}"
            )
        return self


class Tokenize(Strict):
    """02_tokenize."""

    base: LocalPath = Field(description="tiny | smollm2 | a local folder | a hub id owner/name; paper: Baichuan-7B")
    tiny: Tiny = Field(description="the built-in base model; read only if base is tiny")
    template: Literal["auto", "own", "baichuan", "baichuan2", "plain"] = Field(
        description="auto: the tokenizer's own chat template, else Baichuan's role tokens if it has them, else plain"
    )
    block_size: int = Field(ge=16, description="tokens per DCPT block; paper: 1024")
    packing: Literal["isolated", "naive"] = Field(description="naive: documents of a block see each other")
    max_cpt_tokens: int | None = Field(ge=1, description="DCPT tokens of one epoch; null: all")
    replay_share: float = Field(ge=0, lt=1, description="share of general text among the DCPT tokens")
