"""The file of SERIES_FILE: what it means, and one clear line for each mistake."""

from pathlib import Path

import pytest
from msgspec import structs

from app.core import series_file, settings
from app.core.series_file import SeriesSettings
from app.errors import ConfigurationError

KEY = "sk-proj-abcdefgh1234"


def load(text: str | bytes, folder: Path, **environment: str) -> list[SeriesSettings]:
    """Return the series of a file with this text."""
    path = folder / "series.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_path(path, **environment)


def load_path(path: object, **environment: str) -> list[SeriesSettings]:
    variables = {"SERIES_FILE": str(path), **environment}
    return series_file.load(settings.load(variables), variables)


def test_without_a_file():
    """There is one series, `main`, from the settings of the model."""
    variables = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_MODEL": "a-model",
        "OPENAI_BASE_URL": "http://localhost:11434/v1",
        "OPENAI_TEMPERATURE": "0.7",
        "OPENAI_TIMEOUT": "60",
    }
    assert series_file.load(settings.load(variables), variables) == [
        SeriesSettings(
            name="main",
            label="a-model",
            model="a-model",
            base_url="http://localhost:11434/v1",
            key_from="OPENAI_API_KEY",
            key=KEY,
            temperature=0.7,
            timeout_seconds=60,
        )
    ]


def test_a_file(tmp_path):
    """Three series in the order of the file; what it does not say comes from the settings."""
    main, claude, dice = load(
        """
        [main]
        label = "GPT-6 Luna"
        model = "gpt-6-luna"
        reasoning_effort = "low"

        [claude]
        label = "Claude"
        base_url = "https://api.anthropic.com/v1/"
        key_from = "ANTHROPIC_API_KEY"
        model = "claude"
        response_format = "json_object"
        token_limit_as = "max_tokens"
        max_tokens = 20000
        timeout_seconds = 120
        temperature = 1
        extra_body = { provider = { require_parameters = true } }

        [dice]
        kind = "random"
        """,
        tmp_path,
        OPENAI_API_KEY=KEY,
        ANTHROPIC_API_KEY="another",
        OPENAI_TIMEOUT="90",
        OPENAI_BASE_URL="https://proxy.example/v1",
    )
    assert main == SeriesSettings(
        name="main",
        label="GPT-6 Luna",
        model="gpt-6-luna",
        base_url="https://proxy.example/v1",
        key_from="OPENAI_API_KEY",
        key=KEY,
        reasoning_effort="low",
        timeout_seconds=90,
    )
    assert claude == SeriesSettings(
        name="claude",
        label="Claude",
        model="claude",
        base_url="https://api.anthropic.com/v1/",
        key_from="ANTHROPIC_API_KEY",
        key="another",
        response_format="json_object",
        token_limit_as="max_tokens",
        max_tokens=20_000,
        timeout_seconds=120,
        temperature=1,
        extra_body={"provider": {"require_parameters": True}},
    )
    assert dice == SeriesSettings(name="dice", label="dice", kind="random")


def test_a_byte_order_mark_is_read(tmp_path):
    """Some editors write one."""
    (dice,) = load(b'\xef\xbb\xbf[dice]\nkind = "random"', tmp_path)
    assert dice.name == "dice"


def test_the_key_is_never_shown(tmp_path):
    """Neither in the text of a series nor in that of the settings."""
    (main,) = load('[main]\nmodel = "a-model"', tmp_path, OPENAI_API_KEY=KEY)
    assert main.key == KEY
    assert KEY not in f"{main} {main!r}"


def test_a_missing_key_is_named(tmp_path):
    """Only when keys are needed: `verify` and `show` need none."""
    series = load('[a]\nmodel = "m"\nkey_from = "A_KEY"\n[dice]\nkind = "random"', tmp_path)
    with pytest.raises(ConfigurationError, match=r"^A_KEY must be set to the key of the series a,"):
        series_file.require_keys(series)
    series_file.require_keys(series[1:])


A_MODEL = '[main]\nmodel = "m"\n'

# The mistakes, by option, and the beginning of what the message says about each.
MISTAKES = {
    # The file.
    "empty": ("", "it has no series"),
    "only a comment": ("# nothing", "it has no series"),
    "no TOML": ("main: a", "it is no TOML"),
    "a table twice": (
        A_MODEL + A_MODEL,
        "it has the series main twice, the second time in line 3. Remove one of the two, or",
    ),
    "a table twice, with blanks": (
        A_MODEL + "\n# again\n[ main ] # x",
        "it has the series main twice, the second time in line 5.",
    ),
    "a table after a list": ("[[main]]\n[main]", "it has the series main twice, the second"),
    "a table after a dotted option": (
        'main.model = "m"\n[main]',
        "it has the series main twice, the second time in line 2.",
    ),
    "a table twice, which is no name": ('["a b"]\n["a b"]', "it has the series a b twice"),
    "a table twice, whose name is a key": (
        f"[{KEY}]\n[{KEY}]",
        "it has the series a long name twice",
    ),
    "a nested table twice": (
        A_MODEL + "[main.extra_body]\n[main.extra_body]\n",
        "it has the table main.extra_body twice, the second time in line 4.",
    ),
    "a body twice": (
        A_MODEL + "extra_body = {}\n[main.extra_body]\n",
        "it has the table main.extra_body twice, the second time in line 4.",
    ),
    "a body that goes on": (
        A_MODEL + "extra_body = { a = 1 }\nextra_body.b = 1\n\n",
        "it has the table main.extra_body twice, the second time in line 4.",
    ),
    "a table twice, with a long name": (
        f"[{'b' * 5000}]\n" * 2,
        f"it has the series {'b' * 40} tw",
    ),
    "a table twice, with many dots": (
        f"[a{'.b' * 3000}]\n" * 2,
        "it has the table a.b.b.b",
    ),
    "a table twice, with quotes": (
        "['x'] # a\n[\"x\"]",
        "it has the series x twice, the second time in line 2.",
    ),
    "a table twice, with odd characters": (
        '["\') twice (at \\u0000\\n"]\n' * 2,
        "it has the series ') twice (at",
    ),
    "an option twice": (
        A_MODEL + 'model = "x"',
        "it has a name twice, the second time in line 3.",
    ),
    "an option twice, not at the end": (
        A_MODEL + 'model = "x"\n\n[dice]\nkind = "random"',
        "it has a name twice, the second time in line 3.",
    ),
    "a member twice": (
        A_MODEL + "extra_body = { a = 1, a = 2 }",
        "it has the member a twice, the second time in line 3.",
    ),
    "JSON": ('{"main": {}}', "it is no TOML"),
    "not UTF-8": (b'[main]\nmodel = "\xff"', "it is not UTF-8"),
    "UTF-16": ('[main]\nmodel = "m"'.encode("utf-16"), "it is not UTF-8"),
    "too deep": ("[main]\nextra_body = " + "[" * 5000 + "]" * 5000, "it is "),
    "too long": ("#" * 1_000_001, "it is longer than"),
    "a number that Python refuses": (
        A_MODEL + f"max_tokens = {'1' * 5000}",
        "it has a number with too",
    ),
    "too many": (
        "".join(f'[s{n}]\nkind = "random"\nlabel = "{n}"\n' for n in range(33)),
        "it has 33 series; at most 32",
    ),
    "outside of a table": ('model = "m"', "model stands outside of a table"),
    "a list outside of a table": ("model = [1]", "model stands outside of a table"),
    "a list of tables": (
        '[[main]]\nmodel = "m"',
        "[[main]] is a list of tables. Write [main], with one pair of brackets.",
    ),
    "two lists of tables": (
        '[[main]]\nmodel = "m"\n[[main]]\nmodel = "n"',
        "[[main]] is a list of tables.",
    ),
    "an empty list of tables": ("[[dice]]", "[[dice]] is a list of tables. Write [dice], with"),
    "a list after a table": (A_MODEL + "[[claude]]", "[[claude]] is a list of tables."),
    "a list whose name is a key": (f"[[{KEY}]]", "[[a long name]] is a list of tables."),
    # Names.
    "a capital": ("[Main]", "[Main] is no name of a series"),
    "an underscore": ("[my_model]", "[my_model] is no name of a series"),
    "a digit first": ("[4o]", "[4o] is no name of a series"),
    "a space": ('["a b"]', "[a b] is no name of a series"),
    "too long a name": (f"[{'a' * 33}]", "[a"),
    "an empty name": ('[""]', "[] is no name of a series"),
    "not ASCII": ('["modèle"]', "[modèle] is no name of a series"),
    "a line feed": ('["a\\nb"]', "[a b] is no name of a series"),
    # Options.
    "a mistyped option": (
        A_MODEL + "temprature = 1",
        "[main] temprature is no option. Did you mea",
    ),
    "an unknown option": (A_MODEL + "colour = 1", "[main] colour is no option. The options: base_"),
    "a nested table": (
        A_MODEL + "[main.more]\na = 1",
        "[main] more is no option, and the name of a series has no dot. Write a series as "
        "[main-more], for example, and members of a request in extra_body.",
    ),
    "a version with a dot": ('[gpt-5.4]\nmodel = "m"', "[gpt-5] 4 is no option, and the name of"),
    "a dot and capitals": (
        '[claude.Opus_4]\nmodel = "m"',
        "[claude] Opus_4 is no option, and the name of a series has no dot. Write a series as "
        "[claude-opus-4],",
    ),
    "two dots": ('[qwen.max.1]\nmodel = "m"', "[qwen] max is no option, and the name of a series"),
    "a list with a dot": ('[[claude.opus]]\nmodel = "m"', "[claude] opus is no option, and the na"),
    "a dot in a control": ('[dice.two]\nkind = "random"', "[dice] two is no option, and the name"),
    "a dot in a long name": (
        f'[claude.{"x" * 30}]\nmodel = "m"',
        f"[claude] {'x' * 30} is no option, and the name of a series has no dot. Write a series "
        "as [claude-opus],",
    ),
    "a member outside of the body": (
        A_MODEL + "provider = { require_parameters = true }",
        "[main] provider is no option, and the name of a series has no dot.",
    ),
    "a mistyped body": (
        A_MODEL + "[main.extra_bdy]\na = 1",
        "[main] extra_bdy is no option. Did you mean extra_body?",
    ),
    # Options whose names are similar to that of a key.
    **{
        f"a mistyped limit, {line}": (
            A_MODEL + line,
            f"[main] {line.split(' ')[0]} is no option. Did you mean max_tokens?",
        )
        for line in [
            "max_token = 20000",
            "max-token = 20000",
            "Max_Token = 20000",
            "max_token = 0.5",
            "max_token = true",
            'max_token = "20000"',
            "token = 20000",
            "max_output_token = 20000",
        ]
    },
    "a number that is no key": (
        A_MODEL + "eos_key = 20000",
        "[main] eos_key is no option. The options: base_url,",
    ),
    "a number in place of a key": (
        A_MODEL + "api_key = 20000",
        "[main] api_key is no option. The options: base_url,",
    ),
    **{
        f"the name of a variable, {line}": (
            A_MODEL + line,
            f"[main] {line.split(' ')[0]} is no option. The option that names the variable with "
            "the key is key_from, for example key_from = ",
        )
        for line in [
            'key = "X_API_KEY"',
            'api_key = "X_API_KEY"',
            'api-key = "${X_API_KEY}"',
            'token = "$X_TOKEN"',
            'key_env = "X_API_KEY"',
            'secret = "X_SECRET_2"',
        ]
    },
    **{
        f"a key, {line}": (
            A_MODEL + line,
            f"[main] {line.split(' ')[0]}: a key does not belong into the file. Set it as an env",
        )
        for line in [
            f'api_key = "{KEY}"',
            'api_key = "hunter2"',
            f'key = "{KEY}"',
            'key = "QW3RTZ5ABCDEFGH2"',
            'token = "hunter2"',
            f'max_token = "{KEY}"',
            f'modle = "{KEY}"',
            f'auth = "{KEY}"',
            'password = ["hunter2"]',
            'api_key = { value = "hunter2" }',
        ]
    },
    "a key in a control": (
        f'[dice]\nkind = "random"\napi_key = "{KEY}"',
        "[dice] api_key: a control needs no key, and a key does not belong into the file.",
    ),
    "no model": ('[main]\nlabel = "x"', "[main] model is missing"),
    "an empty model": ('[main]\nmodel = " "', "[main] model must be a text"),
    "a model of two lines": ('[main]\nmodel = "a\\nb"', "[main] model must be a model's name"),
    "a model that turns": ('[main]\nmodel = "a\\u202eb"', "[main] model must be a model's name"),
    "a long model": (f'[main]\nmodel = "{"m" * 201}"', "[main] model must be a model's name"),
    "a number as a model": ("[main]\nmodel = 4", "[main] model must be a text"),
    "an unknown kind": ('[main]\nkind = "dice"', '[main] kind must be "model" or "random".'),
    "a kind that is no text": ("[main]\nkind = 1", '[main] kind must be "model" or "random".'),
    "an empty label": (A_MODEL + 'label = ""', "[main] label must be a text"),
    "a long label": (A_MODEL + f'label = "{"x " * 31}"', "[main] label must be a text on one line"),
    "a label of two lines": (A_MODEL + 'label = "a\\nb"', "[main] label must be a text on one lin"),
    "a label that turns": (A_MODEL + 'label = "a\\u202eb"', "[main] label must be a text on one l"),
    "a label twice": (
        '[a]\nmodel = "m"\n[b]\nmodel = "n"\nlabel = "m"',
        "[b] label is that of [a], too",
    ),
    "a label in other capitals": (
        '[a]\nmodel = "m"\n[b]\nmodel = "n"\nlabel = "M"',
        "[b] label is that of [a], too",
    ),
    "a model of a control": (
        '[dice]\nkind = "random"\nmodel = "m"',
        "[dice] model is an option of",
    ),
    "a key of a control": (
        '[dice]\nkind = "random"\nkey_from = "A"',
        "[dice] key_from is an optio",
    ),
    "no address": (A_MODEL + 'base_url = "localhost"', "[main] base_url must be an http or https"),
    "another scheme": (A_MODEL + 'base_url = "ftp://a.b"', "[main] base_url must be an http or ht"),
    "no host": (A_MODEL + 'base_url = "http:///v1"', "[main] base_url must be an http or https ad"),
    **{
        f"the port {port}": (
            A_MODEL + f'base_url = "http://{host}:{port}/v1"',
            "[main] base_url has a port that is not a number from 1 to 65535, for example base_url",
        )
        for host, port in [
            ("gpu-box", "114340"),
            ("127.0.0.1", "99999"),
            ("[fd00::7]", "65536"),
            ("a.b", "0"),
            ("a.b", "-1"),
            ("a.b", "port"),
        ]
    },
    "half an address": (A_MODEL + 'base_url = "http://[::1"', "[main] base_url must be an http or"),
    "a port that is a password": (
        A_MODEL + 'base_url = "http://u:pass@a.b:80/v1"',
        "[main] base_url must have no user name",
    ),
    **{
        f"the address of an endpoint, {address}": (
            A_MODEL + f'base_url = "{address}"',
            f"[main] base_url must end before {endpoint}: the service itself adds "
            f'/chat/completions, for example base_url = "{corrected}".',
        )
        for address, endpoint, corrected in [
            ("https://a.b/v1/chat/completions", "/chat/completions", "https://a.b/v1"),
            ("https://a.b/v1/chat/completions//", "/chat/completions", "https://a.b/v1"),
            ("https://a.b/v1//Chat/Completions/", "/chat/completions", "https://a.b/v1"),
            (
                "http://[fd00::7]:8000/v1/chat/completions",
                "/chat/completions",
                "http://[fd00::7]:8000/v1",
            ),
            ("https://a.b/v1/chat/completions?x=1", "/chat/completions", "https://a.b/v1"),
            ("https://a.b/chat/completions#x", "/chat/completions", "https://a.b"),
            ("https://a.b/v1/completions", "/completions", "https://a.b/v1"),
            ("https://a.b/v1/responses/", "/responses", "https://a.b/v1"),
            ("https://api.anthropic.com/v1/messages", "/messages", "https://api.anthropic.com/v1"),
            ("https://a.b/V1/EMBEDDINGS", "/embeddings", "https://a.b/V1"),
            ("https://a.b/v1/models", "/models", "https://a.b/v1"),
            # Texts that may be secrets are not repeated.
            (
                f"https://u:{KEY}@a.b/v1/models",
                "/models",
                "https://api.anthropic.com/v1/",
            ),
            (
                f"https://a.b/{'a1' * 20}/chat/completions",
                "/chat/completions",
                "https://api.anthropic.com/v1/",
            ),
        ]
    },
    "a user": (A_MODEL + 'base_url = "https://u:p@a.b/v1"', "[main] base_url must have no user na"),
    "a query": (A_MODEL + 'base_url = "https://a.b/v1?key=x"', "[main] base_url must have no user"),
    "an empty query": (A_MODEL + 'base_url = "https://a.b/v1?"', "[main] base_url must have no us"),
    "a fragment": (A_MODEL + 'base_url = "https://a.b/v1#x"', "[main] base_url must have no user"),
    "a control character": (
        A_MODEL + 'base_url = "http://a.b/\\u0000"',
        "[main] base_url must be an",
    ),
    "an address that turns": (
        A_MODEL + 'base_url = "http://a/\\u202e"',
        "[main] base_url must be an",
    ),
    "a long address": (
        A_MODEL + f'base_url = "http://a/{"x" * 2000}"',
        "[main] base_url must be an",
    ),
    "a lower variable": (A_MODEL + 'key_from = "my_key"', "[main] key_from must be the name of an"),
    "a variable's value": (A_MODEL + 'key_from = "$A_KEY"', "[main] key_from must be the name of"),
    "the key of the prices": (
        A_MODEL + 'key_from = "ALPHA_VANTAGE_API_KEY"',
        "[main] key_from is ALPHA_VANTAGE_API_KEY, a setting with another purpose",
    ),
    "the password of the database": (
        A_MODEL + 'key_from = "DATABASE_URL"',
        "[main] key_from is DATABASE_URL, a setting with another purpose",
    ),
    "an unknown format": (A_MODEL + 'response_format = "xml"', "[main] response_format must be"),
    "an unknown effort": (A_MODEL + 'reasoning_effort = "huge"', "[main] reasoning_effort must be"),
    "an effort that is no text": (A_MODEL + "reasoning_effort = 3", "[main] reasoning_effort must"),
    "too hot": (A_MODEL + "temperature = 2.1", "[main] temperature must be a number from 0 to 2"),
    "a huge temperature": (
        A_MODEL + f"temperature = {'1' * 400}",
        "[main] temperature must be a num",
    ),
    "a huge time": (A_MODEL + f"timeout_seconds = {'1' * 400}", "[main] timeout_seconds must be a"),
    "a temperature in quotes": (A_MODEL + 'temperature = "1"', "[main] temperature must be a numb"),
    "nan": (A_MODEL + "temperature = nan", "[main] temperature must be a number from 0 to 2"),
    "true as a number": (A_MODEL + "temperature = true", "[main] temperature must be a number"),
    "no time": (A_MODEL + "timeout_seconds = 0", "[main] timeout_seconds must be a number of seco"),
    "endless": (A_MODEL + "timeout_seconds = inf", "[main] timeout_seconds must be a number of se"),
    "half an hour and more": (A_MODEL + "timeout_seconds = 1801", "[main] timeout_seconds must be"),
    "few tokens": (A_MODEL + "max_tokens = 10", "[main] max_tokens must be a whole number from 25"),
    "a fraction of tokens": (
        A_MODEL + "max_tokens = 500.5",
        "[main] max_tokens must be a whole nu",
    ),
    "an unknown limit": (A_MODEL + 'token_limit_as = "tokens"', "[main] token_limit_as must be"),
    "tools as a text": (A_MODEL + 'tools = "yes"', "[main] tools must be true or false"),
    "a body that is no table": (A_MODEL + "extra_body = []", "[main] extra_body must be a table"),
    "a body with the model": (
        A_MODEL + 'extra_body = { model = "x" }',
        "[main] extra_body must not have the member model",
    ),
    "a body with messages": (
        A_MODEL + "extra_body = { Messages = [] }",
        "[main] extra_body must not have the member Messages",
    ),
    "a body with an infinite number": (
        A_MODEL + "extra_body = { a = [{ b = inf }] }",
        "[main] extra_body has inf or nan",
    ),
    "a body with a date": (
        A_MODEL + "extra_body = { a = 2027-01-01 }",
        "[main] extra_body has a date",
    ),
    "a body with a long number": (
        A_MODEL + f"extra_body = {{ a = 0x{'f' * 5000} }}",
        "[main] extra_body has a whole number of more",
    ),
    "a body that is deep": (
        A_MODEL + f"extra_body{'.a' * 3000} = 1",
        "[main] extra_body has more than 20",
    ),
    "a long body": (
        A_MODEL + f"extra_body = {{ a = [{'1, ' * 5000}] }}",
        "[main] extra_body must have at most",
    ),
    # Tools that are not declared.
    "tools": (A_MODEL + "extra_body = { tools = [] }", "[main] gives the model tools"),
    "a web search": (
        A_MODEL + "extra_body = { web_search_options = {} }",
        "[main] gives the model",
    ),
    "nested tools": (
        A_MODEL + "extra_body = { google = { tools = [] } }",
        "[main] gives the model",
    ),
    "plugins": (A_MODEL + 'extra_body = { plugins = [{ id = "web" }] }', "[main] gives the model"),
    "a model that searches": ('[a]\nmodel = "x/y:online"', "[a] gives the model tools or a search"),
    "Perplexity's models": (
        '[a]\nmodel = "perplexity/sonar-pro"',
        "[a] gives the model tools or a",
    ),
    "deep research": ('[a]\nmodel = "o4-mini-deep-research"', "[a] gives the model tools or a se"),
    "a system with tools": (
        '[a]\nmodel = "groq/compound-mini"',
        "[a] gives the model tools or a s",
    ),
    "another one": ('[a]\nmodel = "gpt-5-search-api"', "[a] gives the model tools or a search"),
}


@pytest.mark.parametrize(("text", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake(tmp_path, text, message):
    """The message is one line, and names the file, the series and the option."""
    with pytest.raises(ConfigurationError) as raised:
        load(text, tmp_path)
    shown = str(raised.value)
    assert shown.startswith(f"SERIES_FILE ({tmp_path}/series.toml): {message}"), shown
    assert "\n" not in shown
    assert len(shown) < 500


# The kind: a place of the file where a key was written.
@pytest.mark.parametrize(
    "text",
    [
        f'{A_MODEL}key = "{KEY}"',
        f'{A_MODEL}api_key = "{KEY}"',
        f'{A_MODEL}key_from = "{KEY}"',
        f'{A_MODEL}label = "{KEY}"',
        f'[main]\nmodel = "{KEY}"',
        f'{A_MODEL}reasoning_effort = "{KEY}"',
        f'{A_MODEL}base_url = "{KEY}"',
        f'{A_MODEL}base_url = "https://{KEY}@a.b/v1"',
        f'{A_MODEL}base_url = "https://a.b/v1?key={KEY}"',
        f'{A_MODEL}base_url = "https://a.b/{KEY}/v1"',
        f'{A_MODEL}label = "a/{KEY}"',
        f'[main]\nmodel = "a/{KEY}"',
        f'{A_MODEL}extra_body = {{ api_key = "{KEY}" }}',
        f'{A_MODEL}extra_body = {{ headers = {{ Authorization = "Bearer {KEY}" }} }}',
        f'{A_MODEL}extra_body = {{ user = ["{KEY}"] }}',
        f'{A_MODEL}extra_body = {{ "{KEY}" = 1 }}',
        f'{A_MODEL}"{KEY}" = 1',
        f'["{KEY}"]\nmodel = "m"',
        f'key = "{KEY}"',
        f"{A_MODEL}key = {KEY}",
        f"[main]\n{KEY}",
    ],
)
def test_a_key_in_the_file_is_refused_and_not_shown(tmp_path, text):
    """Wherever it stands: in a value, in a name, or outside of TOML."""
    with pytest.raises(ConfigurationError) as raised:
        load(text, tmp_path)
    assert "abcdefgh1234" not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://a.b/v1",
        "https://a.b/v1/",
        "https://models.example.org",
        "https://models",
        "https://a.b/models/v1",
        "https://a.b/my-models",
        "https://a.b/v1/messages-proxy/",
        "https://a.b/chat/completions/v1",
        "https://a.b/openai/deployments/x",
        "http://gpu-box:65535/v1",
        "http://localhost:1",
    ],
)
def test_an_address_of_a_server(tmp_path, address):
    """Only the end of an address can be an endpoint, and only as a whole part of the path."""
    (main,) = load(f'{A_MODEL}base_url = "{address}"', tmp_path)
    assert main.base_url == address


def test_a_message_names_what_has_the_path(tmp_path):
    """A command may have an option for the file. Its name then stands in place of the setting."""
    for path in (tmp_path, tmp_path / "missing.toml", "a\0b"):
        loaded = structs.replace(settings.load({}), series_file=str(path))
        with pytest.raises(ConfigurationError) as raised:
            series_file.load(loaded, {}, source="--series")
        shown = str(raised.value)
        assert shown.startswith(f"--series ({path}): it ")
        assert shown.endswith(" Set --series to the path of a TOML file.")


@pytest.mark.parametrize(
    "name",
    ["missing.toml", "", "a\0b", "a" * 300],
    ids=["missing", "a folder", "NUL", "too long a name"],
)
def test_a_path_without_a_file(tmp_path, name):
    """One line that names the path."""
    with pytest.raises(ConfigurationError, match=r"^SERIES_FILE"):
        load_path(tmp_path / name)


def test_declared_tools_are_accepted(tmp_path):
    """The series is then shown and not tested."""
    (main,) = load(A_MODEL + "tools = true\nextra_body = { tools = [{ type = 'x' }] }", tmp_path)
    assert main.tools


@pytest.mark.parametrize(
    "model",
    [
        "claude-sonnet-4-5-20250929",
        "openai/gpt-oss-120b",
        "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M",
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8",
        "accounts/fireworks/models/deepseek-v3p1-terminus-0925-instruct",
        "xai-org/grok-2-reasoning-1212",
    ],
)
def test_long_names_of_models_are_no_keys(tmp_path, model):
    """Model names have letters, digits and dashes, too."""
    (main,) = load(f'[main]\nmodel = "{model}"', tmp_path)
    assert main.model == model
