"""Who answers in Tables 4-6: the run's four models, and every model that a line of `baselines` names.

A model is asked in the template it was trained with: the same weights score 26 % or 57 % by template alone
(hiyouga/LLaMA-Factory#2509).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from qilin_lib import chains, files
from qilin_lib.errors import QilinError, nearest, sentence
from qilin_lib.evaluate import sequence
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.endpoint import EndpointBackend, connected
from qilin_lib.evaluate.prompts import AS_IT_COMES, Asking, asked_as
from qilin_lib.evaluate.templates import AUTO, CHAT, of_others, unspoken
from qilin_lib.evaluate.vllm_backend import VllmBackend
from qilin_lib.models import merge
from qilin_lib.models.adapters import is_prefix, load_to_answer, trained
from qilin_lib.models.base import from_hub, is_hub_id, local
from qilin_lib.models.examine import why_unusable
from qilin_lib.models.load import load_tokenizer
from qilin_lib.models.names import places
from qilin_lib.progress import Show
from qilin_lib.runs import Stage
from qilin_lib.schema import Baseline
from qilin_lib.tokens.own_template import choose
from qilin_lib.tokens.template import Template, as_trained
from qilin_lib.train import baseline, rejection, vllm_client
from qilin_lib.train.baseline import named
from qilin_lib.train.fit import weights_of

STAND_IN = "tiny-t5"
MERGED = "merged"
"""Folder of the weights that vLLM reads in place of adapters, while models answer."""
Load = Callable[[], Any]


def prepare(stage: Stage, show: Show) -> dict[str, str]:
    """Look at every baseline, and fine-tune those that ask for it, once; {name: why} of those that cannot answer.

    A sentence names eval.baselines.<name> (in 09: bias.baselines.<name>), value and nearest valid choice.
    """
    failed: dict[str, str] = {}
    vllm = stage.parameters.vllm_python
    if vllm:
        vllm_client.check(stage.name, vllm)
        for name in stage.parameters.models:
            _whole(stage, weights(stage, name))
    for name, line in stage.parameters.baselines.items():
        if name in places(stage.parameters.chain):
            raise QilinError(f"{named(stage, name)}: that is the name of a stage of this run; call the baseline else")
        try:
            if line.endpoint is not None:
                _endpoint(stage, name)
                continue
            found = source(stage, name)
            asked = _template(stage, name, found)
            if line.finetune is not None:
                _refuse_training(named(stage, name), line, found)
                baseline.finetune(stage, name, line.finetune, asked, found, show)
                found = trained(baseline.folder(stage, name))
            if vllm:
                _whole(stage, found)
        except Exception as reason:
            failed[name] = sentence(reason)
            show(f"{name} cannot answer: {failed[name]}")
    return failed


def loaders(stage: Stage, device: str) -> dict[str, Load]:
    """{model name: callable that loads it onto `device` and returns its backend}, in the order of the tables.

    The models named in `stage.parameters.models`, then its baselines, which `prepare` has seen.
    """
    own = {
        name: lambda name=name: _load(stage, name, weights(stage, name), template(stage, name), device, AS_IT_COMES)
        for name in stage.parameters.models
    }
    return own | {
        name: partial(_endpoint, stage, name) if line.endpoint else partial(_load_baseline, stage, name, device)
        for name, line in stage.parameters.baselines.items()
    }


def shots(stage: Stage, name: str) -> int:
    """C-Eval examples that a model is shown: a baseline's own number, or `eval.shots`."""
    line = stage.parameters.baselines.get(name)
    # Attitude scales (09) are asked without examples and have no such parameter.
    return getattr(stage.parameters, "shots", 0) if line is None or line.shots is None else line.shots


def template(stage: Stage, name: str) -> Template:
    """The form in which a stage's model is asked: the one it was trained with; plain for base and DCPT, which saw no
    chat. Raises QilinError when the template in the code is no longer the one that the model was trained with.
    """
    chain = stage.parameters.chain
    if name == "base" or (name in chain and not chains.conversed(chain, name)):
        return unspoken(choose("plain", load_tokenizer(weights(stage, name))))
    facts = files.read_json(training(stage, name) / "facts.json")
    return as_trained(facts, f"model '{name}'", places(chain)[name])


def training(stage: Stage, name: str) -> Path:
    """Folder of a training of the run: facts.json, and adapter/ or model/."""
    folder = stage.parent(places(stage.parameters.chain)[name])
    if name == "rejection_sampling":
        return rejection.last_round(folder)
    return folder / "rl" if name == "rl" else folder


def weights(stage: Stage, name: str) -> Path:
    """Folder of the full weights, or the adapter, that a stage name stands for."""
    return weights_of(stage, chains.TOKENIZE) if name == "base" else trained(training(stage, name))


def source(stage: Stage, name: str) -> Path:
    """Folder of the weights that a baseline's `model` names: a stage, a local folder, a hub id, or the stand-in.

    Raises QilinError when there is none, or when what is there cannot answer.
    """
    model = stage.parameters.baselines[name].model
    known = places(stage.parameters.chain)
    if model in known:
        return weights(stage, model)
    if model == STAND_IN:
        target = stage.dir / "baselines" / STAND_IN
        return sequence.stand_in(weights_of(stage, "02_tokenize"), target, stage.parameters.seed)
    if local(model).is_dir():
        found = local(model).resolve()
    elif is_hub_id(model):
        found = from_hub(f"{named(stage, name)}.model = '{model}'", model)
    else:
        beside = [path.name for path in local(model).parent.glob("*") if path.is_dir()]
        near = nearest(model, [*known, STAND_IN]) or nearest(Path(model).name, beside)
        raise QilinError(
            f"{named(stage, name)}.model = '{model}': no stage of this run ({', '.join(known)}), no folder, no hub id "
            f"like 'owner/name'{near}"
        )
    if why := why_unusable(found):
        raise QilinError(f"{named(stage, name)}.model = '{model}': {why}")
    return found


def _template(stage: Stage, name: str, weights: Path) -> Any:
    """The template that a baseline's line names; it must be the trained one where that is known."""
    line = stage.parameters.baselines[name]
    own = (
        template(stage, line.model)
        if line.model in places(stage.parameters.chain)
        else _trained(named(stage, name), weights)
    )
    if line.finetune is None and own is not None:
        if line.prompt is None and line.template in (AUTO, own.name):
            return own
        raise QilinError(
            f"{named(stage, name)}.template = '{line.template}': model '{line.model}' was trained with template "
            f"'{own.name}'; nearest valid: template: {own.name}"
        )
    tokenizer, plain = load_tokenizer(weights), line.finetune is not None or baseline.is_sequence_model(weights)
    asked = "plain" if plain and line.template == AUTO else line.template
    try:
        # What is trained learns the end token, also in plain text.
        if line.finetune is not None and asked != CHAT:
            return choose(asked, tokenizer)
        return of_others(asked, line.prompt, line.chat_template_kwargs, tokenizer)
    except QilinError as reason:
        raise QilinError(f"{named(stage, name)}.template = '{line.template}': {reason}") from None


def _trained(what: str, weights: Path) -> Template | None:
    """The template of a model that this kit trained: in a run (facts.json beside it) or exported (qilin.json)."""
    beside, note = weights.parent / "facts.json", weights / "qilin.json"
    if beside.exists() and weights == trained(weights.parent):
        facts = files.read_json(beside)
        if "template_sha256" in facts:
            if weights.parent.name == chains.folder("dcpt"):
                return unspoken(choose("plain", load_tokenizer(weights)))
            return as_trained(facts, f"{what}.model", "06_eval")
    facts = files.read_json(note) if note.exists() else {}
    return as_trained(facts, f"{what}.model", "06_eval") if "template" in facts else None


def _refuse_training(what: str, line: Baseline, weights: Path) -> None:
    spec = line.finetune
    if line.template == "chat":
        raise QilinError(
            f"{what}: finetune cuts long turns inside, which template 'chat' does not allow; nearest "
            "valid: template: plain"
        )
    if spec.finetuning != "full" and baseline.is_sequence_model(weights):
        raise QilinError(
            f"{what}.finetune.finetuning = '{spec.finetuning}': model '{line.model}' is an encoder-decoder, whose "
            "adapter the kit does not merge; nearest valid: full (as Huatuo-26M trained its T5)"
        )


def _endpoint(stage: Stage, name: str) -> EndpointBackend:
    line = stage.parameters.baselines[name]
    if line.finetune is not None:
        raise QilinError(f"{named(stage, name)}.finetune: a model at an endpoint is not trained; nearest valid: null")
    return connected(line, stage.parameters.batch_size)


def _whole(stage: Stage, weights: Path) -> Path:
    """Folder of full weights, which vLLM reads: an adapter is merged, once, before the processes start."""
    if is_prefix(weights):
        return weights
    return merge.start(weights, stage.dir / MERGED, False, sorted(stage.run_dir.glob("*/start")))[0]


def _load_baseline(stage: Stage, name: str, device: str) -> Any:
    found = source(stage, name)
    asked = _template(stage, name, found)
    if stage.parameters.baselines[name].finetune is not None:
        found = trained(baseline.folder(stage, name))
    return _load(stage, name, found, asked, device, asked_as(stage.parameters.baselines[name]))


def _load(stage: Stage, name: str, weights: Path, asked: Any, device: str, asking: Asking) -> Any:
    parameters, tokenizer = stage.parameters, load_tokenizer(weights)
    if baseline.is_sequence_model(weights):
        model = baseline.load_sequence_model(weights, parameters.dtype, device)
        return sequence.SequenceBackend(model, tokenizer, asked, parameters.batch_size, device, asking)
    # A prefix is part of no weights.
    if parameters.vllm_python and not is_prefix(weights):
        first = int(device.partition(":")[2] or 0)
        work, whole = stage.dir / "vllm" / f"{name}-{os.environ.get('RANK', 0)}", _whole(stage, weights)
        more = (first, parameters.vllm, asking)
        return VllmBackend(parameters.vllm_python, whole, tokenizer, asked, parameters.dtype, work, *more)
    model = load_to_answer(weights, parameters.dtype, device)
    return TransformersBackend(model, tokenizer, asked, parameters.batch_size, device, asking)
