import hashlib
import hmac
import json
import logging
import socket
import threading
import time

import pytest
from pydantic import TypeAdapter, ValidationError

from experiments_dagster.alerts.channel import Outside
from experiments_dagster.alerts.channels import AlertSettings, ChannelSettings
from experiments_dagster.alerts.delivery import deliver_pending
from experiments_dagster.alerts.file import FileChannel, append_once
from experiments_dagster.alerts.slack import SlackChannel, slack_message
from experiments_dagster.alerts.transport import TransportError, UrllibTransport, WireRequest
from experiments_dagster.alerts.webhook import WebhookChannel

CANARY = "canary-5f1c9a77"
ENVIRON = {"HOOK_SECRET": f"secret-{CANARY}", "SLACK_URL": f"https://hooks.slack.com/{CANARY}"}


def webhook(url="https://hooks.example.com/x", **changes):
    return WebhookChannel(kind="webhook", name="hook", url=url, secret_env="HOOK_SECRET", **changes)


def outside(transport, alert, environ=ENVIRON):
    return Outside(transport=transport, environ=environ, now=alert.created_at)


def test_union_is_discriminated_on_kind():
    adapter = TypeAdapter(ChannelSettings)
    for channel_class, section in (
        (WebhookChannel, {"kind": "webhook", "url": "https://h.example.com", "secret_env": "S"}),
        (SlackChannel, {"kind": "slack", "url_env": "SLACK_URL"}),
        (FileChannel, {"kind": "file", "path": "/var/log/alerts.jsonl"}),
    ):
        assert type(adapter.validate_python({"name": "x", **section})) is channel_class


@pytest.mark.parametrize(
    ("section", "rule"),
    [
        ({"kind": "pager", "name": "x"}, "pager"),
        ({"kind": "file", "name": "x", "path": "/a", "pth": "/b"}, "pth"),
        ({"kind": "file", "name": "Not A Name", "path": "/a"}, "name"),
        ({"kind": "file", "name": "x", "path": "/a", "levels": ["fatal"]}, "levels"),
        ({"kind": "slack", "name": "x"}, "exactly one"),
        ({"kind": "slack", "name": "x", "url_env": "A", "url": "https://h.example.com"}, "exactly"),
        (
            {"kind": "webhook", "name": "x", "url": "http://h.example.com", "secret_env": "S"},
            "https",
        ),
        ({"kind": "webhook", "name": "x", "url": "https://h.example.com"}, "secret_env"),
    ],
)
def test_wrong_settings_name_themselves(section, rule):
    with pytest.raises(ValidationError, match=rule):
        TypeAdapter(ChannelSettings).validate_python(section)


def test_channel_names_are_unique():
    twice = [{"kind": "file", "name": "x", "path": path} for path in ("/a", "/b")]
    with pytest.raises(ValidationError, match="found twice: x"):
        AlertSettings(channels=twice)


def test_signature_is_verified_by_an_independent_computation(alert_factory, start_receiver):
    receiver = start_receiver(200)
    alert = alert_factory()
    result = webhook(receiver.url).send(alert, outside(UrllibTransport(), alert))
    assert result.status == "delivered"
    headers, body = receiver.received[0]
    parts = dict(part.split("=") for part in headers["X-Experiments-Signature"].split(","))
    message = f"{parts['t']}.{body.decode()}"
    secret = ENVIRON["HOOK_SECRET"].encode()
    assert parts["v1"] == hmac.new(secret, message.encode(), hashlib.sha256).hexdigest()
    assert parts["v1"] != hmac.new(b"other", message.encode(), hashlib.sha256).hexdigest()
    assert int(parts["t"]) == int(alert.created_at.timestamp())
    assert headers["X-Experiments-Alert-Id"] == alert.alert_id
    assert json.loads(body) == json.loads(alert.to_json())


def test_slack_escapes_control_characters(alert_factory, fake_transport):
    alert = alert_factory(title="<!channel> a & b > c", text="see <https://evil|here> & more")
    transport = fake_transport(200)
    channel = SlackChannel(kind="slack", name="growth", url_env="SLACK_URL")
    assert channel.send(alert, outside(transport, alert)).status == "delivered"
    message = json.loads(transport.requests[0].body)
    assert set(message) == {"text", "blocks"}
    assert message["text"] == "[error] &lt;!channel&gt; a &amp; b &gt; c"
    for text in [message["text"], *(block["text"]["text"] for block in message["blocks"][:2])]:
        assert "<" not in text
        assert ">" not in text
    assert transport.requests[0].url == ENVIRON["SLACK_URL"]


def test_slack_shortens_without_cutting_an_entity(alert_factory):
    message = slack_message(alert_factory(text="<" * 5000))
    text = message["blocks"][1]["text"]["text"]
    assert len(text) <= 3000
    assert text.removesuffix(" ...").replace("&lt;", "") == ""


def test_file_appends_once(tmp_path, alert_factory):
    path = tmp_path / "new" / "alerts.jsonl"
    first, second = alert_factory("first"), alert_factory("second", text="line\nbreak")
    assert append_once(path, first)
    assert not append_once(path, first)
    assert append_once(path, second)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["title"] for line in lines] == ["alert first", "alert second"]


def test_file_names_of_other_alerts_do_not_count(tmp_path, alert_factory):
    path = tmp_path / "alerts.jsonl"
    wanted = alert_factory("wanted")
    append_once(path, alert_factory("other", text=f"mentions {wanted.alert_id}"))
    assert append_once(path, wanted)


def test_file_cuts_off_a_torn_line(tmp_path, alert_factory):
    path = tmp_path / "alerts.jsonl"
    first, second = alert_factory("first"), alert_factory("second")
    append_once(path, first)
    with path.open("a") as stream:
        stream.write(second.to_json()[:40])
    assert append_once(path, second)
    assert [json.loads(line)["title"] for line in path.read_text().splitlines()] == [
        "alert first",
        "alert second",
    ]


def test_file_that_cannot_be_written_is_unavailable(tmp_path, alert_factory, fake_transport):
    alert = alert_factory()
    channel = FileChannel(kind="file", name="file", path=tmp_path)
    result = channel.send(alert, outside(fake_transport(), alert))
    assert result.status == "unavailable"
    assert result.reason == "IsADirectoryError 21"


def test_redirect_is_not_followed(alert_factory, start_receiver):
    inside = start_receiver(200)
    hook = start_receiver(302, location=inside.url)
    alert = alert_factory()
    result = webhook(hook.url).send(alert, outside(UrllibTransport(), alert))
    assert (result.status, result.reason) == ("rejected", "HTTP 302")
    assert inside.received == []


def test_proxy_variables_are_not_used(alert_factory, start_receiver, monkeypatch):
    proxy, hook = start_receiver(200), start_receiver(200)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("https_proxy", proxy.url)
    alert = alert_factory()
    webhook(hook.url).send(alert, outside(UrllibTransport(), alert))
    assert proxy.received == []
    assert len(hook.received) == 1


@pytest.mark.parametrize("drip", [False, True])
def test_silent_or_dripping_receiver_is_given_up(drip):
    stop = threading.Event()

    def serve(server):
        connection, _ = server.accept()
        with connection:
            while not stop.wait(0.1):
                if drip:
                    try:
                        connection.sendall(b"H")
                    except OSError:
                        return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        began = time.monotonic()
        with pytest.raises(TransportError):
            UrllibTransport().post(WireRequest(url=url, body=b"{}", headers={}, timeout_s=0.5))
        assert time.monotonic() - began < 5
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, "delivered"),
        (202, "delivered"),
        (301, "rejected"),
        (400, "rejected"),
        (404, "rejected"),
        (408, "unavailable"),
        (429, "unavailable"),
        (500, "unavailable"),
        (503, "unavailable"),
    ],
)
def test_status_decides(alert_factory, fake_transport, status, expected):
    alert = alert_factory()
    assert webhook().send(alert, outside(fake_transport(status), alert)).status == expected


def test_missing_secret_keeps_the_alert(alert_factory, fake_transport):
    alert = alert_factory()
    transport = fake_transport()
    result = webhook().send(alert, outside(transport, alert, environ={}))
    assert result.status == "unavailable"
    assert result.reason == "environment variable HOOK_SECRET is not set"
    assert transport.requests == []


def test_private_address_is_refused_until_allowed(alert_factory, fake_transport):
    alert = alert_factory()
    url = "https://10.1.2.3/x"
    refused = webhook(url).send(alert, outside(fake_transport(), alert))
    allowed = webhook(url, allow_private=True).send(alert, outside(fake_transport(), alert))
    assert (refused.status, allowed.status) == ("rejected", "delivered")


@pytest.mark.parametrize(
    ("routing", "accepted"),
    [
        ({}, True),
        ({"levels": ["error"]}, True),
        ({"levels": ["info", "success"]}, False),
        ({"experiments": ["checkout_button"]}, True),
        ({"experiments": ["other"]}, False),
        ({"levels": ["warning"], "experiments": ["checkout_button"]}, False),
    ],
)
def test_routing(alert_factory, routing, accepted):
    assert webhook(**routing).accepts(alert_factory()) is accepted


def test_secrets_appear_nowhere(alert_factory, outbox, caplog, capfd, start_receiver):
    """F-127: settings, errors, logs and files are searched for a canary; the receiver finds it."""
    caplog.set_level(logging.DEBUG)
    receiver = start_receiver(500, 404, 500)
    hook = webhook(f"{receiver.url}?token={CANARY}")
    slack = SlackChannel(kind="slack", name="growth", url_env="SLACK_URL")
    plain = SlackChannel(kind="slack", name="plain", url=f"http://127.0.0.1:1/{CANARY}")
    bad = SlackChannel(kind="slack", name="bad", url_env="BAD_URL")
    environ = {
        **ENVIRON,
        "SLACK_URL": f"http://127.0.0.1:1/{CANARY}",
        "BAD_URL": f"http://{CANARY}:x@[broken/{CANARY}",
    }
    settings = AlertSettings(channels=(hook, slack, plain, bad))
    for name in "ab":
        outbox.enqueue(alert_factory(name))
    summary = deliver_pending(outbox, settings.channels, environ=environ, backoff_s=0.0)
    assert summary.pending == 8

    shown = [repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())]
    shown += [repr(summary), caplog.text, *capfd.readouterr()]
    shown.append(
        repr(Outside(transport=UrllibTransport(), environ=environ, now=alert_factory().created_at))
    )
    shown.append(
        repr(WireRequest(url=CANARY, body=CANARY.encode(), headers={"x": CANARY}, timeout_s=1))
    )
    for section in (
        {"kind": "slack", "name": "x", "url": f"http://example.com/{CANARY}"},
        {"kind": "slack", "name": "x", "url": f"https://example.com/{CANARY}", "url_env": "A"},
        {
            "kind": "webhook",
            "name": "x",
            "url": f"https://e.com/{CANARY}",
            "secret_env": f"{CANARY}",
        },
    ):
        with pytest.raises(ValidationError) as caught:
            AlertSettings(channels=(section,))
        shown += [str(caught.value), repr(caught.value)]
    assert [text for text in shown if CANARY in text] == []
    files = [path for path in outbox.root.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if CANARY in path.read_text() or CANARY in path.name] == []
    # The search itself works: the request did carry the token.
    assert hook.url.get_secret_value().endswith(CANARY)
