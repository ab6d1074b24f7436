"""Where words are in a prompt's tokens."""

from transformers import PreTrainedTokenizerBase


def token_places(tokenizer: PreTrainedTokenizerBase, text: str, word: str) -> list[int]:
    """Places of a word's tokens in a prompt's token sequence; none where they are cut off."""
    start = text.find(word)
    if start < 0 or not word.strip():
        return []

    def length(part: str) -> int:
        return len(tokenizer(part, truncation=True).input_ids) - 1  # without the end token

    places = range(length(text[:start].rstrip()), length(text[: start + len(word)]))
    return [place for place in places if place < tokenizer.model_max_length - 1]
