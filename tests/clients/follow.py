"""Follows OW_EVENTS_PUBLIC with the stock client and prints one JSON line for each message.

    follow.py URL SEED_FILE FROM_SEQUENCE COUNT

Ends after COUNT messages, or when ten seconds bring none.
"""
import asyncio
import json
import sys

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy


async def main(url, seed_file, start, count):
    client = await nats.connect(url, nkeys_seed=seed_file, inbox_prefix=b"_INBOX_reader")
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start, ack_policy=AckPolicy.EXPLICIT
    )
    events = await client.jetstream().pull_subscribe(
        "ow.v1.evt.>", durable=f"follow-{start}", stream="OW_EVENTS_PUBLIC", config=config
    )
    while count:
        try:
            batch = await events.fetch(min(count, 10), timeout=10)
        except nats.errors.TimeoutError:
            break
        for message in batch:
            print(json.dumps({
                "sequence": message.metadata.sequence.stream,
                "subject": message.subject,
                "headers": message.headers,
                "payload": json.loads(message.data),
            }), flush=True)
            await message.ack()
        count -= len(batch)
    await client.close()


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
