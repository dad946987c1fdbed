"""Untrained encoders are folders from which finetune and distill can start."""

from transformers import AutoConfig, AutoModel

from sinkd.models import load_tokenizer, train_tokenizer, write_encoder
from sinkd.tasks import load_task
from synthetic_corpus import write_corpus

TEXTS = ["the dog sees the cat", "the cats see the dogs", "The man sings ."] * 4


def test_a_vocabulary_is_learned_from_the_texts_and_reads_them(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 60)
    assert len(tokenizer) <= 60
    assert tokenizer.unk_token not in tokenizer.tokenize("THE dog sings.")
    folder = write_encoder(tmp_path / "model", tokenizer, layers=2, width=16, heads=2)
    loaded = load_tokenizer(str(folder), "--model_path")
    assert loaded("The dog.")["input_ids"] == tokenizer("The dog.")["input_ids"]


def test_the_same_texts_give_the_same_vocabulary(tmp_path):
    texts = load_task("cola", write_corpus(tmp_path, 300, 50)).read("train")["text"]
    vocabularies = [train_tokenizer(texts, 500).get_vocab() for _ in range(3)]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]
    assert len(vocabularies[0]) > 200


def test_an_encoder_has_the_sizes_and_is_decided_by_its_seed(tmp_path):
    tokenizer = train_tokenizer(TEXTS, 60)
    one, same, other = (
        write_encoder(tmp_path / name, tokenizer, layers=2, width=16, heads=2, seed=seed)
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    config = AutoConfig.from_pretrained(one)
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (2, 16, 64)
    assert config.vocab_size == len(tokenizer)
    assert (one / "model.safetensors").read_bytes() == (same / "model.safetensors").read_bytes()
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    assert type(AutoModel.from_pretrained(one)).__name__ == "BertModel"
