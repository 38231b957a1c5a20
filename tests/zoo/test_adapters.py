"""Networks of timm, torchvision and transformers by name, with images and texts, from the command line too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import autoprune
from autoprune.errors import CheckpointError, TaskError, UserError
from autoprune.graph.inputs import call_network
from autoprune.tasks.adapters.extras import import_extra
from autoprune.tasks.adapters.images.image_folder import image_folder
from autoprune.tasks.adapters.networks.zoos import timm_preprocessing, torchvision_preprocessing
from autoprune.tasks.adapters.texts.tasks import language_model, text_classification
from autoprune.tasks.base import Task
from autoprune.tasks.models.named import named_model
from autoprune.tasks.simple import build_task
from tests.documents import PAGES, Block, blocks
from tests.tasks.adapters.images.folders import write_images
from tests.test_docs import run

pytestmark = pytest.mark.slow

TIMM, TINY = "timm:test_resnet", {"image_size": 32}
TEXTS = [
    ("red apple tree", "fruit"),
    ("sour green apple", "fruit"),
    ("blue fast car", "vehicle"),
    ("slow car", "vehicle"),
]


@cache
def transformers() -> Any:
    return import_extra("transformers", "transformers")


@pytest.fixture(autouse=True, scope="module")
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "all")


# Networks by name


@pytest.mark.parametrize("name", [TIMM, "torchvision:resnet18", "torchvision:vit_b_32", "timm:test_vit"])
def test_a_network_by_name_gets_the_classes_and_the_size_of_the_images(name: str) -> None:
    network = named_model(name, classes=3, image_size=64).build().eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "timm:resnet81",
            r"^timm has no network 'resnet81'; did you mean 'resnet18'\?; timm.list_models\(\)",
        ),
        ("timm:hf-hub:timm/resnet18.a1_in1k", "^timm has no network"),
        ("timm:resnet18.no_such_tag", r"^timm:resnet18.no_such_tag cannot be built: Invalid pretrained tag"),
        ("torchvision:resnet81", "^torchvision has no network 'resnet81'; did you mean"),
    ],
)
def test_a_name_that_a_library_does_not_have_is_refused(name: str, said: str) -> None:
    with pytest.raises(TaskError, match=said) as raised:
        named_model(name).build()
    assert "\n" not in str(raised.value)


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("reaches out")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    for name in (TIMM, "torchvision:fcn_resnet50"):
        model = named_model(name)
        with pytest.raises(CheckpointError, match="has random weights, as nothing is downloaded: give --checkpoint"):
            model.load(model.build(), None)  # type: ignore[misc]  # there is one


def test_a_checkpoint_for_other_classes_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / "nine.pt"
    torch.save(named_model(TIMM, classes=9).build().state_dict(), file)
    model = named_model(TIMM, classes=3)
    network = model.build()
    with pytest.raises(CheckpointError, match=r"nine.pt is of a network for 9 classes, but the data have 3; give one"):
        model.load(network, file)  # type: ignore[misc]
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, file)
    other = model.build()
    model.load(other, file)  # type: ignore[misc]
    same_weights(other, network)


def same_weights(one: nn.Module, other: nn.Module) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


# Images


def photograph(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], -1)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "vit_base_patch16_siglip_224", "levit_128s"])
@pytest.mark.parametrize("sides", [(300, 200), (200, 317), (90, 90)])
def test_images_are_preprocessed_as_by_timm(name: str, sides: tuple[int, int]) -> None:
    timm = import_extra("timm", "timm")
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False)
    config = timm.data.resolve_model_data_config(network)
    expected = timm.data.create_transform(**config, is_training=False)(photograph(*sides))
    torch.testing.assert_close(timm_preprocessing(network).apply(photograph(*sides)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sides", [(300, 200), (200, 317)])
def test_images_are_preprocessed_as_by_torchvision(sides: tuple[int, int]) -> None:
    weights = import_extra("torchvision", "torchvision").models.get_model_weights("resnet18").DEFAULT
    expected = weights.transforms()(photograph(*sides))
    found = torchvision_preprocessing("resnet18").apply(photograph(*sides))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [TIMM, "timm:test_vit", "torchvision:resnet18"])
def test_a_folder_of_images_trains_and_judges_a_network_by_name(name: str, images: Path, tmp_path: Path) -> None:
    task = image_folder(name, images, options=TINY)
    network = task.network()
    task.train(network, autoprune.TrainingPlan(steps=2, rate=0.01, batch_size=6))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    loaded = task.network()
    task.load(loaded, tmp_path / "weights.pt")
    same_weights(loaded, network)


# Folders of Hugging Face's


def save_network(folder: Path, kind: str, tokenizer: bool = True, **options: Any) -> Path:
    """Saves a tiny network, and a tokenizer of the words in `TEXTS`."""
    words = ["[PAD]", "[UNK]", "<end>", *sorted({word for text, _ in TEXTS for word in text.split()})]
    library = import_extra("tokenizers", "transformers")
    model = library.models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]")
    made = library.Tokenizer(model)
    made.pre_tokenizer = library.pre_tokenizers.Whitespace()
    sizes = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 32, **options}
    network_class = getattr(transformers(), kind)
    torch.manual_seed(0)
    network_class(network_class.config_class(**sizes)).save_pretrained(folder)
    if tokenizer:
        transformers().PreTrainedTokenizerFast(
            tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", eos_token="<end>"
        ).save_pretrained(folder)
    return folder


BERT, LLAMA = "BertForSequenceClassification", "LlamaForCausalLM"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in TEXTS * 6))
    return file


def outputs_of(task: Task, network: nn.Module) -> torch.Tensor:
    inputs, _ = next(iter(task.batches("plain", 4)))
    assert set(inputs) == {"input_ids", "attention_mask"}
    with torch.no_grad():
        return call_network(network.eval(), inputs).logits  # type: ignore[no-any-return]


def test_texts_are_classified_by_a_folders_network_with_its_weights(texts: Path, tmp_path: Path) -> None:
    folder = save_network(tmp_path / "bert", BERT, num_labels=2)
    task = text_classification(f"hf:{folder}", texts)
    network = task.network()
    task.load(network, None)
    same_weights(network, transformers().BertForSequenceClassification.from_pretrained(folder))
    assert [metric.name for metric in task.metrics] == ["accuracy", "f1"]
    inputs, targets = next(iter(task.batches("plain", 4)))
    with torch.no_grad():
        outputs = network.eval()(**inputs, labels=targets)
    torch.testing.assert_close(task.loss(outputs, targets), outputs.loss)
    plan = autoprune.TrainingPlan(epochs=20, rate=0.01, batch_size=8, optimizer="adamw")
    task.train(network, plan)
    assert float(task.loss(type(outputs)(logits=outputs_of(task, network)), targets)) < 0.5 * float(outputs.loss)


def test_labels_are_the_classes_of_the_configuration(texts: Path, tmp_path: Path) -> None:
    names = {0: "vehicle", 1: "fruit"}
    folder = save_network(tmp_path / "bert", BERT, id2label=names, label2id={name: n for n, name in names.items()})
    inputs, targets = next(iter(text_classification(f"hf:{folder}", texts).batches("plain", 18)))
    fruit = {int(tokens[-1]) for tokens, label in zip(inputs["input_ids"], targets, strict=True) if label == 1}
    vehicles = {int(tokens[-1]) for tokens, label in zip(inputs["input_ids"], targets, strict=True) if label == 0}
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    assert fruit == {words["tree"], words["apple"]}
    assert vehicles == {words["car"], words["[PAD]"]}


def test_a_decoder_classifies_padded_texts(texts: Path, tmp_path: Path) -> None:
    folder = save_network(tmp_path / "gpt", "GPT2ForSequenceClassification", num_labels=2)
    task = text_classification(f"hf:{folder}", texts)
    assert outputs_of(task, task.network()).shape == (4, 2)


def test_the_loss_of_a_language_model_is_the_networks_own_and_perplexity_follows(tmp_path: Path) -> None:
    folder = save_network(tmp_path / "llama", LLAMA)
    file = tmp_path / "text.txt"
    file.write_text("\n".join(text for text, _ in TEXTS * 20))
    task = language_model(f"hf:{folder}", file, options={"length": 6})
    network = task.network()
    task.load(network, None)
    inputs, targets = next(iter(task.batches("validation", 5)))
    assert inputs["input_ids"].shape == (5, 6)
    with torch.no_grad():
        outputs = network.eval()(**inputs, labels=targets)
    torch.testing.assert_close(task.loss(outputs, targets), outputs.loss)
    perplexity = task.metrics[0].accumulator()
    perplexity.update(outputs.logits, targets)
    assert perplexity.compute() == pytest.approx(float(outputs.loss.exp()), rel=1e-5)


def test_images_are_classified_by_a_folders_network_as_its_processor_says(images: Path, tmp_path: Path) -> None:
    folder = save_network(
        tmp_path / "vit", "ViTForImageClassification", tokenizer=False, image_size=32, patch_size=8, num_labels=3
    )
    said = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    task = build_task("image_folder", f"hf:{folder}", images)
    inputs, _ = next(iter(task.batches("plain", 3)))
    assert inputs.shape == (3, 3, 32, 32)
    assert -2 <= float(inputs.min()) < -1


def test_a_folder_whose_weights_are_in_several_files_is_loaded(texts: Path, tmp_path: Path) -> None:
    folder = save_network(tmp_path / "bert", BERT, num_labels=2)
    network = transformers().BertForSequenceClassification.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="5KB")
    assert len(list(folder.glob("model*.safetensors"))) > 1
    task = text_classification(f"hf:{folder}", texts)
    loaded = task.network()
    task.load(loaded, None)
    same_weights(loaded, network)


def without(name: str) -> Any:
    return lambda folder: [path.unlink() for path in folder.glob(name)]


def configured(**values: Any) -> Any:
    def change(folder: Path) -> None:
        said = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**said, **values}))

    return change


def loaded_task(folder: Path, texts: Path) -> Task:
    task = text_classification(f"hf:{folder}", texts)
    task.load(task.network(), None)
    return task


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("config.json"), "should be a folder that save_pretrained wrote, but it has no config.json"),
        (without("tokenizer*"), r"has no tokenizer; save it there: tokenizer.save_pretrained\(FOLDER\)"),
        (
            without("model.safetensors"),
            r"a configuration but no weights \(model.safetensors\); give --checkpoint",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"no"),
            "weights in .* cannot be loaded",
        ),
        (configured(architectures=None), "names no class of a network"),
        (configured(architectures=["os"]), "names 'os', no network of transformers"),
        (
            configured(architectures=["BertForMaskedLM"]),
            "holds a BertForMaskedLM, but task 'text_cl",
        ),
        (configured(architectures=["BertModel"]), "holds a BertModel, but task"),
        (
            configured(model_type="mine", auto_map={"AutoConfig": "code.Mine"}),
            "no configuration that transformers knows",
        ),
        (configured(id2label={"0": "a", "1": "b", "2": "c"}, num_labels=3), "for 3 classes, but the data have 2"),
        (configured(problem_type="multi_label_classification"), "has one label for each text, but .* multi_label"),
        (configured(vocab_size=5), r"the tokenizer makes tokens up to \d+, but hf:.* knows 5"),
        (configured(hidden_size=15), "BertForSequenceClassification cannot be built from"),
        (configured(intermediate_size=40), r"weights in .* cannot be loaded \(RuntimeError"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(change: Any, said: str, texts: Path, tmp_path: Path) -> None:
    folder = save_network(tmp_path / "bert", BERT, num_labels=2)
    change(folder)
    with pytest.raises(UserError, match=said) as raised:
        loaded_task(folder, texts)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("model", "data", "options", "said"),
    [
        (TIMM, "texts.jsonl", {}, f"takes --model hf:FOLDER, .* but has '{TIMM}'$"),
        (None, "texts.jsonl", {}, r"takes --model hf:FOLDER, .* but has none$"),
        ("hf:bert", None, {}, "needs --data FILE, a file with columns of texts and labels$"),
        ("hf:bert", "texts.jsonl", {"length": 33}, "the network takes at most 32 tokens, but 33 are asked for$"),
        ("hf:bert", "one.csv", {}, r"one.csv has one class only, 'a'; expected at least two$"),
        ("hf:bert", "parts", {}, r"parts: the validation part has label 'c' \(line 2\), train has not$"),
    ],
)
def test_texts_that_do_not_suit_are_refused_in_one_line(
    model: str | None,
    data: str | None,
    options: dict[str, Any],
    said: str,
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(texts.parent)
    save_network(Path("bert"), BERT, num_labels=2)
    Path("one.csv").write_text("text,label\nred,a\nblue,a\n")
    Path("parts").mkdir()
    Path("parts/train.csv").write_text("text,label\nred,a\nblue,b\n")
    Path("parts/val.csv").write_text("text,label\nred,c\n")
    with pytest.raises(UserError, match=said) as raised:
        text_classification(model, None if data is None else Path(data), options=options)
    assert "\n" not in str(raised.value)


def test_a_language_models_text_may_be_too_short(tmp_path: Path) -> None:
    folder = save_network(tmp_path / "llama", LLAMA)
    file = tmp_path / "short.txt"
    file.write_text("red apple")
    with pytest.raises(UserError, match=r"short.txt has less than 32 tokens; give more text, or say"):
        language_model(f"hf:{folder}", file)


# The documentation


def played(page: str, needs: str) -> Iterator[Block]:
    return (block for block in blocks(PAGES[page]) if block.needs == needs)


@pytest.mark.parametrize("needs", ["timm", "transformers"])
def test_the_commands_of_the_page_run(needs: str, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks(PAGES["adapters"]):
        if block.file is not None:
            (workdir / block.file).write_text(block.text)
    for block in played("adapters", needs):
        for command in block.commands:
            small = ["--set", "track.enabled=false"] if command[:2] == ["autoprune", "train"] else []
            assert run([*command, *small]) == 0, " ".join(command)
    assert {"timm": "thinner", "transformers": "small_network"}[needs] in {path.name for path in workdir.iterdir()}
