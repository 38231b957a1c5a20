"""Writes labelled docstrings of the standard library, and a small network with a tokenizer, both untrained."""

import csv
import importlib
import inspect

from autoprune.tasks.adapters.extras import import_extra

transformers = import_extra("transformers", "transformers")
tokenizers = import_extra("tokenizers", "transformers")

TOPICS = {
    "numbers": ["decimal", "fractions", "statistics", "random"],
    "files": ["tarfile", "zipfile", "shutil", "mailbox"],
}
rows = set()
for topic, modules in TOPICS.items():
    for name in modules:
        for _, member in inspect.getmembers(importlib.import_module(name)):
            for each in [member, *(vars(member).values() if inspect.isclass(member) else [])]:
                if callable(each) and isinstance(each.__doc__, str) and len(each.__doc__) > 40:
                    rows.add((" ".join(each.__doc__.split()), topic))
with open("docstrings.csv", "w", newline="", encoding="utf-8") as file:
    csv.writer(file).writerows([("text", "label"), *sorted(rows)])

words = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
words.train_from_iterator(
    [text for text, _ in sorted(rows)],
    tokenizers.trainers.WordLevelTrainer(vocab_size=1000, special_tokens=["[PAD]", "[UNK]"]),
)
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
config = transformers.BertConfig(
    vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
    max_position_embeddings=64, num_labels=2,
)  # fmt: skip
transformers.BertForSequenceClassification(config).save_pretrained("text_network")
tokenizer.save_pretrained("text_network")
