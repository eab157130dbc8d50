"""Rows as long as SAMSum's, without its text: words drawn at random, lengths of its distribution.

The distribution is a log-normal one, cut at SAMSum's longest row, and fitted to its token counts
with Mistral's tokenizer; a test holds it against the corpus itself.
"""

MEDIAN, SPREAD, LONGEST = 185, 0.56, 1200  # tokens of a row; of their logarithm; tokens
SUMMARY = 0.12  # of a row's tokens
VALIDATION = 64  # rows
WORDS = ["the", "we", "you", "meet", "station", "tomorrow", "at", "seven", "dinner", "sure",
         "maybe", "bring", "photos", "train", "late", "see", "there", "great", "wait",
         "call"]  # fmt: skip  # each is one token
