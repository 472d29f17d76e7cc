"""F-121: what the guard refuses and what it lets pass, without a server behind it."""

import asyncio
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments_dagster.service.guard import Guard, RefusedError, check_request, host_name

HOSTS = Guard(None, ["experiments.example.com", "2001:DB8::7"]).hosts
QUERY = "query { version }"
MUTATION = 'mutation { startSchedule(scheduleSelector: {scheduleName: "daily_looks"}) { id } }'


def make_scope(
    path="/graphql",
    *,
    kind="http",
    method="GET",
    host="127.0.0.1:3000",
    origin=None,
    query=None,
    raw_query=None,
    extensions=None,
):
    pairs = [("host", host), ("origin", origin)]
    many = [(name, value if isinstance(value, list) else [value]) for name, value in pairs]
    headers = [
        (name.encode(), value.encode("latin-1"))
        for name, values in many
        for value in values
        if value is not None
    ]
    if raw_query is None:
        raw_query = f"query={quote(query)}" if query is not None else ""
    return {
        "type": kind,
        "method": method,
        "path": path,
        "headers": headers,
        "query_string": raw_query.encode(),
        "extensions": extensions or {},
    }


def status(**changes):
    """What a request is answered with by the guard itself; None when it passes."""
    try:
        check_request(make_scope(**changes), HOSTS)
    except RefusedError as refused:
        return refused.status
    return None


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:3000",
        "127.0.0.1",
        "127.0.0.1:80",
        "[::1]:3000",
        "localhost.:3000",
        "experiments.example.com",
        "Experiments.Example.COM:443",
        "[2001:db8::7]:3000",
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_known_hosts_pass(host, kind):
    assert status(host=host, kind=kind) is None


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example.net",
        "rebound.example.net:3000",
        "127.0.0.1.example.net",
        "evil-experiments.example.com",
        "sub.experiments.example.com",
        "127.0.0.2",
        "0.0.0.0:3000",
        "2130706433",
        "",
        ":3000",
        "localhost:port",
        "localhost:99999",
        "localhost:0",
        "user@localhost",
        "localhost/@rebound.example.net",
        "localhost,rebound.example.net",
        "local host",
        "localhost#x",
        "[::1",
        None,
        ["localhost", "rebound.example.net"],
        ["localhost", "localhost"],
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_unknown_hosts_are_misdirected(host, kind):
    assert status(host=host, kind=kind) == 421


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "localhost:3000"),
        ("http://localhost:3000", "localhost:3000"),
        ("HTTP://LocalHost:3000", "localhost:3000"),
        ("http://localhost", "localhost"),
        ("http://localhost", "localhost:80"),
        ("http://[::1]:3000", "[::1]:3000"),
        # Behind a proxy that ends TLS and passes the Host on.
        ("https://experiments.example.com", "experiments.example.com"),
        ("https://experiments.example.com", "experiments.example.com:443"),
        ("https://experiments.example.com:8443", "experiments.example.com:8443"),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_own_origins_pass(origin, host, kind):
    assert status(origin=origin, host=host, kind=kind, method="POST") is None


@pytest.mark.parametrize(
    "origin",
    [
        "https://rebound.example.net",
        "http://127.0.0.1:3000",
        "http://localhost",
        "http://localhost:8888",
        "https://localhost",
        "null",
        "",
        "localhost:3000",
        "//localhost:3000",
        "file://localhost:3000",
        "chrome-extension://localhost:3000",
        "http://localhost:3000/",
        "http://localhost:3000@rebound.example.net",
        "http://localhost:3000.rebound.example.net",
        ["http://localhost:3000", "https://rebound.example.net"],
        ["http://localhost:3000", "http://localhost:3000"],
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_foreign_origins_are_forbidden(origin, kind):
    assert status(origin=origin, host="localhost:3000", kind=kind, method="POST") == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "/prefix/graphql"])
@pytest.mark.parametrize(
    "raw_query",
    [
        f"query={quote(MUTATION)}",
        f"query={quote(QUERY)}&query={quote(MUTATION)}",
        f"query={quote(MUTATION)}&query={quote(QUERY)}",
        f"operationName=A&query={quote('query A { version } mutation B { x }')}",
        f"query={quote('# comment' + chr(10) + 'mutation{x}')}",
        f"query={quote('fragment F on Q { x } mutation { y }')}",
        f"%71uery={quote(MUTATION)}",
        f"x=1;y=2&query={quote(MUTATION).replace('%20', '+')}",
        f"query={quote(chr(0xFEFF) + ',mutation{x}')}",
    ],
)
def test_a_mutation_in_a_url_is_not_allowed(method, path, raw_query):
    assert status(method=method, path=path, raw_query=raw_query) == 405


@pytest.mark.parametrize(
    "query",
    [
        QUERY,
        "{ version }",
        "subscription { x }",
        'query { runs(filter: {tags: {key: "mutation", value: "mutation { x }"}}) { x } }',
        "# mutation { x }\nquery { version }",
    ],
)
def test_queries_in_a_url_pass(query):
    assert status(query=query) is None


@pytest.mark.parametrize("query", ["", "mutation {", "mutation { x } }", "{ a " * 5000])
def test_what_is_no_document_is_refused(query):
    assert status(query=query) == 400


@pytest.mark.parametrize("path", ["/", "/runs", "/assets/graphql-notes", "/server_info"])
def test_other_paths_take_any_query_string(path):
    assert status(path=path, query="mutation") is None


@given(st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40))
def test_any_host_is_judged_without_a_crash(text):
    assert status(host=text) in {None, 421}


@given(st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=40))
def test_any_origin_is_judged_without_a_crash(text):
    assert status(origin=text) in {None, 403}


@pytest.mark.parametrize(
    "name",
    ["", "*", "*.example.com", "example.com:443", "https://example.com", "a b", "a/b", "[::1"],
)
def test_what_is_no_host_name_cannot_be_allowed(name):
    with pytest.raises(ValueError, match="one host name"):
        host_name(name)


class Application:
    """Remembers which scopes reached it."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        self.seen.append(scope)


def call(scope):
    application, sent = Application(), []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(application)(scope, None, send))
    return application.seen, sent


def test_what_passes_reaches_the_application_unchanged():
    for scope in (make_scope(), {"type": "lifespan"}):
        assert call(scope) == ([scope], [])


def test_a_refused_request_never_reaches_the_application():
    seen, sent = call(make_scope(query=MUTATION))
    assert seen == []
    assert sent[0]["status"] == 405
    assert (b"allow", b"POST") in sent[0]["headers"]
    assert b"body of a POST" in sent[1]["body"]


@pytest.mark.parametrize(
    ("extensions", "kinds"),
    [
        (
            {"websocket.http.response": {}},
            ["websocket.http.response.start", "websocket.http.response.body"],
        ),
        ({}, ["websocket.close"]),
    ],
)
def test_a_refused_handshake_is_closed_with_every_server(extensions, kinds):
    scope = make_scope(
        kind="websocket", origin="https://foreign.example.net", extensions=extensions
    )
    seen, sent = call(scope)
    assert seen == []
    assert [message["type"] for message in sent] == kinds
    assert sent[0].get("status", 403) == 403


def test_the_log_names_no_query(caplog):
    call(make_scope(query=MUTATION))
    assert "status=405 path=/graphql" in caplog.text
    assert "daily_looks" not in caplog.text
