"""A WHEP player on top of aiortc's peer connection: whep.py URL KEY

Prints one JSON object a line: `created` with what the server answered, then four times a second what was
decoded so far. The end of its standard input is what a person's closing of it would be: DELETE, and
`deleted` with the status.
"""

import array
import asyncio
import json
import math
import sys
import urllib.error
import urllib.parse
import urllib.request

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError


class Seen:
    """What was decoded."""

    def __init__(self):
        self.width = self.height = 0
        self.pictures = self.changes = 0
        self.sounds = 0
        self.loudness = 0.0
        self.luma = 0
        self.state = "new"

    async def take(self, track):
        take = self.see if track.kind == "video" else self.hear
        try:
            while True:
                take(await track.recv())
        except MediaStreamError:
            pass  # It is over.

    def see(self, picture):
        self.width, self.height = picture.width, picture.height
        luma = hash(bytes(picture.planes[0]))
        self.pictures += 1
        self.changes += luma != self.luma
        self.luma = luma

    def hear(self, sound):
        samples = array.array("h", bytes(sound.planes[0]))
        self.sounds += 1
        self.loudness = math.sqrt(sum(s * s for s in samples) / len(samples)) / 32768


def http(method, url, key, kind=None, body=None):
    headers = {"Authorization": f"Bearer {key}"}
    if kind:
        headers["Content-Type"] = kind
    request = urllib.request.Request(url, data=body, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.headers, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def say(**what):
    print(json.dumps(what), flush=True)


async def end_of_input():
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    await reader.read()


async def main(url, key):
    seen = Seen()
    connection = RTCPeerConnection()
    tasks = set()

    @connection.on("track")
    def on_track(track):
        tasks.add(asyncio.ensure_future(seen.take(track)))

    @connection.on("connectionstatechange")
    def on_state():
        seen.state = connection.connectionState

    for kind in ("audio", "video"):
        connection.addTransceiver(kind, direction="recvonly")
    await connection.setLocalDescription(await connection.createOffer())
    offer = connection.localDescription.sdp.encode()
    status, headers, answer = await asyncio.to_thread(http, "POST", url, key, "application/sdp", offer)
    say(created={"status": status, "headers": {k.lower(): v for k, v in headers.items()}, "body": answer})
    if status != 201:
        return
    session = urllib.parse.urljoin(url, headers["Location"])
    await connection.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
    closing = asyncio.ensure_future(end_of_input())
    while not closing.done():
        say(seen=vars(seen))
        await asyncio.wait([closing], timeout=0.25)
    status, _, _ = await asyncio.to_thread(http, "DELETE", session, key)
    say(deleted={"status": status})
    await connection.close()


asyncio.run(main(*sys.argv[1:3]))
