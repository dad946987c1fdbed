"""Small BERT encoders with random weights and a new vocabulary, for corpora without a pretrained model."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, BertTokenizer, PreTrainedTokenizerBase, set_seed


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2000) -> PreTrainedTokenizerBase:
    """Train an uncased WordPiece tokenizer of at most `vocab_size` pieces; the same texts give the same tokenizer."""
    texts = list(texts)
    trainer = BertWordPieceTokenizer(lowercase=True)
    words = {word for text in texts for word, _ in trainer.pre_tokenizer.pre_tokenize_str(trainer.normalize(text))}
    # The trainer numbers pieces inside words in the order of a hash table, and the numbers decide between equally
    # frequent pairs. Listing the pieces fixes their numbers.
    inside = sorted({f"##{letter}" for word in words for letter in word[1:]})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    options = {"min_frequency": 2, "special_tokens": special + inside, "show_progress": False}
    trainer.train_from_iterator(texts, vocab_size=vocab_size, **options)
    return BertTokenizer(vocab=trainer.get_vocab(), do_lower_case=True, model_max_length=512)


def write_encoder(
    folder: Path, tokenizer: PreTrainedTokenizerBase, *, layers: int, width: int, heads: int, seed: int = 0
) -> Path:
    """Write an untrained BERT without a head, and its tokenizer, to a folder from which finetune and distill can start.

    Args:
        folder: Where to write.
        tokenizer: The tokenizer.
        layers: Number of layers.
        width: Width of the hidden states, a multiple of `heads`; feed-forward layers are four times as wide.
        heads: Number of attention heads.
        seed: Determines the weights.

    Returns:
        `folder`.
    """
    set_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        # No dropout, and larger weights than BERT's: otherwise such a small model learns little from a few thousand
        # sentences.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.05,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
