"""
How many bytes an answer and each of its texts may have.

The lengths of texts are what the record's rules allow a new text to have, in bytes of UTF-8. Records of earlier
versions may hold longer ones, which is why an answer's real length is limited, too (`api.guard`).
"""

from app.domain.prompt import LONGEST_ANSWER, LONGEST_REASONING, SYSTEM_PROMPT
from app.domain.text import LONGEST_STATEMENT

# The most bytes that one letter takes in UTF-8.
LETTER = 4

# An answer, in bytes. libpq holds the whole row before Python sees its length, and its buffer grows by doubling and
# never shrinks: this is a little less than four times 2**20, so that each connection keeps a buffer of 4 MB at most.
# A page of a hundred batches has some 0.4 MB, the longest answer in use (twenty batches in full) 1 MB.
MOST_BYTES = 4_000_000

# The rows that the computed fields of one operation are made of, in bytes. They are read and not sent. A track record
# of 5,200 Mondays, a hundred years, has rows of some 3 MB.
MOST_BYTES_OF_ROWS = 4_000_000

# An answer that can only be longer than MOST_BYTES because the record holds a text that is longer than the lengths
# below, in bytes. Such answers are read one at a time, each taking three times its length for a moment, and are then
# held within the budget of what is not sent yet (64 MB, app/web/unsent.py). The longest refused answer that is known of
# has 30 MB.
MOST_BYTES_OF_ONE = 48_000_000

# The texts, in bytes.
NUMBER = 20
HASH = 64
TICKER = 7
WORD = 80
SENTENCE = 500
# A model's name and a provider's name for an exchange are cut to 200 characters (app/providers/llm.py).
PROVIDER_NAME = 200 * LETTER
# A reason that quotes a provider has at most 500 characters of it (app/providers/llm.py).
REASON = 600 * LETTER
# Why a Monday has no picks: it may quote three refusals.
FAILURE = 4 * REASON
REASONING = LONGEST_REASONING * LETTER
SYSTEM = 2 * len(SYSTEM_PROMPT)
# A question has the reasons for which up to two earlier answers were refused.
USER_PROMPT = 1_000 + 2 * REASON
MODEL_ANSWER = LONGEST_ANSWER
# What an operator says of a correction.
STATEMENT = LONGEST_STATEMENT * LETTER
# An entry of the journal that records a model's answer has it as JSON, which writes a quote or a line break as two.
ENTRY = 2 * MODEL_ANSWER

# Texts that may be longer than this are checked row by row before they are written.
LONG = 1_000
