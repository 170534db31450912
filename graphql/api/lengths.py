"""
The maximum size of a response and of each of its texts, in bytes of UTF-8.

The lengths of texts below are the longest that the record's rules allow for new texts. Records of
earlier versions may contain longer texts. That is why the real length of a response is limited, too
(`api.guard`).
"""

from app.domain import prompt
from app.domain.text import MAX_STATEMENT_LENGTH

# The most bytes that one character takes in UTF-8.
BYTES_PER_CHARACTER = 4

# A response, in bytes. libpq holds the whole row before Python sees its length, and its buffer
# grows by doubling and never shrinks. This limit is a little less than four times 2**20, so that
# each connection keeps a buffer of 4 MB at most. A page of a hundred batches has about 0.4 MB; the
# longest response in use (twenty batches in full) has 1 MB.
MAX_RESULT_BYTES = 4_000_000

# The rows from which the computed fields of one operation are computed, in bytes. They are read and
# not sent. A track record of 5,200 Mondays, a hundred years, has rows of about 3 MB.
MAX_SOURCE_BYTES = 4_000_000

# A response with few rows, in bytes. It can be longer than MAX_RESULT_BYTES only if the record
# contains a text that is longer than the lengths below. Such responses are read one at a time. For
# a moment, each takes three times its length in memory. Then its bytes are counted as unsent (at
# most 64 MB for all responses, app/web/unsent_responses.py). The longest text that we know of, a
# model's refused answer, has 30 MB.
MAX_LONG_RESULT_BYTES = 48_000_000

# The maximum lengths of the texts, in bytes.
NUMBER = 20
HASH = 64
TICKER = 7
WORD = 80
SENTENCE = 500
# A model's name and the id that a provider gives a request are cut to 200 characters
# (app/providers/llm.py).
PROVIDER_NAME = 200 * BYTES_PER_CHARACTER
# A reason quotes at most 500 characters of a provider (app/providers/llm.py).
REASON = 600 * BYTES_PER_CHARACTER
# Why a Monday has no picks: it may quote three refusals.
FAILURE = 4 * REASON
REASONING = prompt.MAX_REASONING_LENGTH * BYTES_PER_CHARACTER
SYSTEM = 2 * len(prompt.CURRENT.system_prompt)
# A question contains the reasons for which up to two earlier answers were refused.
USER_PROMPT = 1_000 + 2 * REASON
MODEL_ANSWER = prompt.MAX_ANSWER_BYTES
# What a SERIES entry states. A model's name has at most 200 characters, and it is the label of a
# series that has no other one. An address has 500 characters, and the further members of a request
# have 10,000 characters of JSON (app/core/series_file.py). JSON writes a quote in a text as two
# characters.
LABEL = 200 * BYTES_PER_CHARACTER
ADDRESS = 500 * BYTES_PER_CHARACTER
EXTRA_BODY = 10_000 * BYTES_PER_CHARACTER
ANSWER_SCHEMA = 8_000
UNIVERSE = 8_000
PROFILE = 2 * (EXTRA_BODY + ANSWER_SCHEMA + ADDRESS) + UNIVERSE
# The operator's reason for a correction.
STATEMENT = MAX_STATEMENT_LENGTH * BYTES_PER_CHARACTER
# A journal entry that records a model's answer contains it as JSON, which writes a quote or a line
# break as two characters.
ENTRY = 2 * MODEL_ANSWER

# A timestamp's proof as base64, and its chain of certificates. Constraints of the table limit both.
PROOF = 66_668
CHAIN = 65_536

# If the texts of a column may be longer than this, the text of each row is checked before the row
# is written.
LONG = 1_000
