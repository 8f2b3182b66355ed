"""An S3 server on loopback, by moto, which can be made to fail, to be slow, and to lose its bucket."""

import logging
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Server:
    """every: each so many-th request gets a 500; 0 for none. seconds: that each answer waits. asked: requests so far, as method
    and path."""

    app: Any
    every: int = 0
    seconds: float = 0.0
    asked: list[tuple[str, str]] = field(default_factory=list)
    failed: int = 0
    url: str = ""

    def __call__(self, environment: dict[str, Any], start: Any) -> Any:
        self.asked.append((environment["REQUEST_METHOD"], environment["PATH_INFO"]))
        if self.seconds:
            time.sleep(self.seconds)
        if self.every and len(self.asked) % self.every == 0:
            self.failed += 1
            start("500 Internal Server Error", [("Content-Type", "application/xml")])
            return [b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"]
        return self.app(environment, start)


@contextmanager
def s3(bucket: str, monkeypatch: Any) -> Iterator[Server]:
    """A server with an empty bucket, which s3:// means from now on."""
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = Server(DomainDispatcherApplication(create_backend_app))
    listening = make_server("127.0.0.1", 0, server, threaded=True)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{listening.server_port}"
    for name, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)
    try:
        yield server
    finally:
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        server.every, server.seconds = 0, 0.0
        # moto keeps its state in this process.
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/moto-api/reset", method="POST")).close()
        listening.shutdown()
        listening.server_close()
        thread.join()


def empty(bucket: str) -> None:
    """Delete a bucket with all that is in it."""
    import boto3

    client = boto3.client("s3")
    for entry in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=entry["Key"])
    client.delete_bucket(Bucket=bucket)
