"""Block tables of the paged KV cache (PagedAttention: Kwon et al., "Efficient Memory Management for Large
Language Model Serving with PagedAttention", SOSP 2023, section 4). The scheduler's side: which blocks belong
to whom. The keys and values themselves are in :mod:`prismtop.demo.attention`.
"""

from __future__ import annotations

from collections import deque

from prismtop.demo.config import CacheConfig


class KVCacheManager:
    """Hands out fixed-size blocks from a free list."""

    def __init__(self, config: CacheConfig) -> None:
        self.block_size = config.block_size
        self.num_blocks = config.num_blocks
        self.free_block_ids: deque[int] = deque(range(config.num_blocks))
        self.block_tables: dict[str, list[int]] = {}

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0.0 to 1.0."""
        return 1.0 - len(self.free_block_ids) / self.num_blocks

    def allocate_slots(self, request_id: str, num_tokens: int) -> list[int] | None:
        """Make room for ``num_tokens`` tokens of a request in total.

        Returns the ids of the blocks added, often none; ``None``, and nothing changed, when too few are free.
        """
        table = self.block_tables.get(request_id)
        held = 0 if table is None else len(table)
        needed = -(-num_tokens // self.block_size) - held
        if needed > len(self.free_block_ids):
            return None
        added = [self.free_block_ids.popleft() for _ in range(needed)]
        if table is None:
            self.block_tables[request_id] = list(added)
        else:
            table.extend(added)
        return added

    def free(self, request_id: str) -> None:
        """Give a request's blocks back; a request that holds none is fine."""
        self.free_block_ids.extend(reversed(self.block_tables.pop(request_id, [])))
