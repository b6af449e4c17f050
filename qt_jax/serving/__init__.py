"""The policy server and its client: websocket, batching, access, page, recording. Imports no learner."""
