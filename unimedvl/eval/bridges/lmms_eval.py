"""A model for lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval, PyPI ``lmms-eval``, 0.7).

lmms-eval finds it by the package's entry point in the group ``lmms_eval.models``, so that its command line knows the
model by name::

    python -m lmms_eval --model unimedvl --model_args pretrained=DIR,dtype=bfloat16 --tasks slake_en --batch_size 8

Several processes (``accelerate launch`` or ``torchrun``) each take a GPU and a share of the documents.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from unimedvl.data.packing import pack
from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.bridges import Context, answers, placed, report, text_options
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.types import Sample

try:
    from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
except ModuleNotFoundError as error:
    raise ConfigError(f"no lmms-eval: {error}", where="lmms_eval", remedy="pip install lmms-eval") from error


class UniMedVL(lmms):
    """Answers lmms-eval's requests; its ``simple`` interface, with images where ``<image>`` stands in the prompt.

    Args:
        pretrained: checkpoint directory, hub id, or ``bundled``.
        batch_size: requests that are answered together.
        device: such as ``cpu`` or ``cuda:1``; by default the GPU of this process, or else the CPU.
        dtype, weights, device_map: see :meth:`unimedvl.UniMedVLPipeline.from_pretrained`.
        max_batch_size: lmms-eval gives it beside ``batch_size=auto``, which there is not here.

    Raises:
        ConfigError, CheckpointError: the model cannot be loaded so.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        weights: Any = "auto",
        device_map: str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(f"batch size {batch_size!r}", where="batch_size", remedy="give a number, 1 or more")
        if max_batch_size is not None:
            report(f"max_batch_size={max_batch_size} changes nothing, batches are of {batch_size}")
        self.batch_size = int(batch_size)
        self._loading = {"dtype": dtype, "weights": weights, "device_map": device_map, "device": _own_gpu(device)}
        self._pretrained = pretrained
        self.device = self.pipe.engine.model.device

    @cached_property
    def pipe(self) -> UniMedVLPipeline:
        """The half of the model that understands."""
        return UniMedVLPipeline.from_pretrained(self._pretrained, und_only=True, **self._loading)

    def clean(self) -> None:
        """Give the model's memory back, when all is answered; it is loaded again if more is asked."""
        self.__dict__.pop("pipe", None)
        super().clean()

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers to (prompt, generation options, images, document, task, split).

        A document that is asked again, for the spread of sampled answers, has another seed each time.
        """
        said: list[str] = []
        times: Counter[tuple[Any, ...]] = Counter()
        for batch in self._batches(requests):
            contexts, options = [], []
            for text, given, doc_to_visual, *document in batch:
                contexts.append(self._context(text, doc_to_visual, *document))
                chosen = text_options(self.pipe, given)
                options.append(replace(chosen, seed=chosen.seed + times[tuple(document)]))
                times[tuple(document)] += 1
            said += answers(self.pipe, contexts, options)
        return said

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """Answers of every round of each request; the task words each round from the answers before it."""
        return [self._rounds(*arguments) for (arguments,) in self._batches(requests, 1)]

    def _rounds(
        self, text: str, given: dict[str, Any], doc_to_visual: Any, doc_to_text: Any, *document: Any
    ) -> list[str]:
        options = text_options(self.pipe, given)
        asked = self._context(text, doc_to_visual, *document)
        doc, said, number, told = self._document(*document), [], 0, None
        while True:
            said, number = [*said, *answers(self.pipe, [asked], [options])], number + 1
            visuals, text, done, said, told = doc_to_text(
                doc, previous_output=said, round_idx=number, previous_round_info=told
            )
            if done:
                return list(said)
            asked = placed(text, visuals or ())

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Loss of each wanted answer, and whether greedy decoding gives exactly it.

        The loss is the mean cross-entropy in nats of the answer's tokens and its end. lmms-eval's documentation speaks
        of a log-likelihood, but its multiple choice takes the smallest value for the model's choice, and its own models
        return such a loss. (Its version 0.7.3 turns the pair into a string before a task sees it, so that its multiple
        choice fails with every model.)
        """
        losses: list[tuple[float, bool]] = []
        for batch in self._batches(requests):
            contexts, wanted = [], []
            for text, target, doc_to_visual, *document in batch:
                contexts.append(self._context(text, doc_to_visual, *document))
                wanted.append((target if isinstance(target, str) else target(self._document(*document))).strip())
            losses += answer_losses(self.pipe, contexts, wanted)
        return losses

    def _batches(self, requests: Sequence[Any], size: int | None = None) -> Iterator[list[tuple[Any, ...]]]:
        from tqdm import tqdm

        size = size or self.batch_size
        with tqdm(total=len(requests), desc="UniMedVL", disable=self.rank != 0) as bar:
            for start in range(0, len(requests), size):
                batch = [request.args for request in requests[start : start + size]]
                yield batch
                bar.update(len(batch))

    def _context(self, text: str, doc_to_visual: Any, *document: Any) -> Context:
        try:
            return placed(text, doc_to_visual(self._document(*document)) or ())
        except DataError as error:
            number, task, split = document
            where = f"document {number} of {task}, {split}"
            raise DataError(error.problem, where=where, remedy=error.remedy) from error

    def _document(self, number: Any, task: str, split: str) -> Any:
        return self.task_dict[task][split][number]


@torch.inference_mode()
def answer_losses(
    pipe: UniMedVLPipeline, contexts: Sequence[Context], wanted: Sequence[str]
) -> list[tuple[float, bool]]:
    """Mean loss per token of each answer, eos included, and whether greedy decoding gives exactly it.

    Raises:
        DataError: an answer is empty, or a context too long.
    """
    processor, model = pipe.processor, pipe.engine.model
    samples: list[Sample] = []
    for own, answer in zip(contexts, wanted, strict=True):
        if not answer:
            raise DataError("an empty answer has no likelihood", where="target", remedy="check the task's choices")
        images = sum(not isinstance(item, str) for item in own)
        seen = [processor.text(i) if isinstance(i, str) else processor.to_understand(i.image, images) for i in own]
        samples.append((*seen, processor.codec.segment(answer, loss=True)))
    batch = pack(samples, model.config, pipe.engine.special)
    batch.validate(model.config)
    output = model(replace(batch, logit_index=batch.ce_index).to(model.device))
    greedy = output.logits[:, : len(processor.codec.tokenizer)].argmax(dim=-1).cpu() == batch.ce_labels
    lengths = [len(processor.codec.encode(answer)) + 1 for answer in wanted]
    pairs = zip(output.ce.split(lengths), greedy.split(lengths), strict=True)
    return [(float(losses.mean()), bool(right.all())) for losses, right in pairs]


def _own_gpu(device: str | None) -> str | None:
    """The device that was asked for; of several processes each has its own GPU where none was named by number."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.cuda.is_available()
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if several and device in (None, "cuda") else device
