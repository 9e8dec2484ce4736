"""A server that speaks S3 on the loopback (moto's), which can be killed, suspended and started again: the fixture ``s3``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import requests

START = "from moto.server import main; main()"
PATIENCE = 60.0
"""Seconds that the server may take to start on a busy machine."""
KEY, SECRET = "AKIAVOLGENTESTKEY000", "a-secret/of+the+tests"
SIGNED = {"Authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/aws4_request"}
"""Headers without which an object may not be written a second time; the server does not check a signature."""


class S3Server:
    """One process; what it holds is gone when it is killed.

    Attributes:
        environment: what a user of it sets.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Starts it, or starts it again on the same port."""
        with (self._folder / "server.log").open("ab") as log:
            command = [sys.executable, "-c", START, "-H", "127.0.0.1", "-p", str(self._port)]
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < until, self.log()
                time.sleep(0.05)

    def revive(self) -> None:
        """Starts it if a test has killed it."""
        if self._process is None:
            self.start()

    def log(self) -> str:
        """What the server has said: a line for each request."""
        return (self._folder / "server.log").read_text(errors="replace")

    def bucket(self, name: str) -> str:
        """Makes a bucket and returns its address."""
        answer = requests.put(f"{self.endpoint}/{name}", headers=SIGNED, timeout=PATIENCE)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return f"s3://{name}"

    def upload(self, folder: Path, address: str) -> None:
        """Puts the files of a folder under an address, as `aws s3 sync` does."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != ".lock":
                url = f"{self.endpoint}/{address.removeprefix('s3://')}/{path.relative_to(folder).as_posix()}"
                answer = requests.put(url, data=path.read_bytes(), headers=SIGNED, timeout=PATIENCE)
                assert answer.status_code == 200, f"{answer.status_code} {answer.text}"

    def objects(self, address: str) -> dict[str, bytes]:
        """What is under an address, by name, as any other client sees it."""
        import boto3

        bucket, _, start = address.removeprefix("s3://").partition("/")
        client = boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
        )
        found = {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{start}/".lstrip("/")):
            for entry in page.get("Contents", ()):
                body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
                found[entry["Key"].removeprefix(start).lstrip("/")] = body
        return found

    def delete(self, address: str) -> None:
        """Removes one object."""
        url = f"{self.endpoint}/{address.removeprefix('s3://')}"
        assert requests.delete(url, headers=SIGNED, timeout=PATIENCE).status_code == 204

    def kill(self) -> None:
        """Ends it at once, with what it holds."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def suspend(self) -> None:
        """Makes it take connections and never answer."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it answer again."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)
