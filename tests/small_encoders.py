"""Make small BERT encoders with random weights, and a vocabulary from a corpus."""

from pathlib import Path

from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, BertTokenizer, PreTrainedTokenizerBase, set_seed


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """An uncased WordPiece tokenizer of at most `vocab_size` pieces; the same texts give the same tokenizer."""
    trainer = BertWordPieceTokenizer(lowercase=True)
    words = {word for text in texts for word, _ in trainer.pre_tokenizer.pre_tokenize_str(trainer.normalize(text))}
    # The trainer numbers pieces inside words in the order of a hash table, and the numbers decide between equally
    # frequent pairs. Listing the pieces fixes their numbers.
    inside = sorted({f"##{letter}" for word in words for letter in word[1:]})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    options = {"min_frequency": 2, "special_tokens": special + inside, "show_progress": False}
    trainer.train_from_iterator(texts, vocab_size=vocab_size, **options)
    return BertTokenizer(vocab=trainer.get_vocab(), do_lower_case=True, model_max_length=512)


def write_encoder(folder: Path, tokenizer, *, layers: int, width: int, heads: int, seed=0, dropout=0.0) -> Path:
    """A folder from which finetune and distill can start."""
    set_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        # No dropout, and larger weights than BERT's: otherwise such a small model learns little.
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.05,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
