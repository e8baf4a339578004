"""The real time steps of a padded batch as one flat list, so that nothing is ever computed on padding.

Axes: B rows, T padded steps, N real steps of all rows, row after row (N = sum of the lengths).
Row b owns the flat steps `offsets[b]:offsets[b + 1]`; a row of length 0 owns none.

Layers reach the layout through these methods only, so that a network runs on another one unchanged: programs that are
exported use `dien.export.padded.PaddedSteps`.
"""

from typing import NamedTuple, Self

from torch import Tensor

from dien.ops import flat_steps, last_state, recurrence, softmax


class Steps(NamedTuple):
    """Where the real steps of each row lie in the padded and in the flat layout."""

    offsets: Tensor
    """int64 [B + 1]"""
    row_N: Tensor
    """int64 [N], the row of every flat step"""
    cell_N: Tensor
    """int64 [N], the cell of every flat step in the padded layout read as one list of B * T cells"""
    width: int
    """T"""

    @classmethod
    def of(cls, length_B: Tensor, width: int) -> Self:
        """Steps of rows with the given lengths, padded on the right to `width` = T."""
        return cls(*flat_steps(length_B, width), width)

    @property
    def rows(self) -> int:
        """B"""
        return len(self.offsets) - 1

    def flat(self, padded: Tensor) -> Tensor:
        """[B, T, ...] -> [N, ...]"""
        return padded.flatten(0, 1).index_select(0, self.cell_N)

    def padded(self, flat: Tensor, fill: float = 0.0) -> Tensor:
        """[N, ...] -> [B, T, ...], `fill` on padding."""
        cells = flat.new_full((self.rows * self.width, *flat.shape[1:]), fill)
        return cells.index_copy(0, self.cell_N, flat).unflatten(0, (self.rows, self.width))

    def spread(self, row_BD: Tensor) -> Tensor:
        """Every step gets the vector of its row, [B, D] -> [N, D]."""
        return row_BD.index_select(0, self.row_N)

    def sum(self, flat_ND: Tensor) -> Tensor:
        """Sum over the steps of each row, [N, D] -> [B, D]; 0 for a row without steps."""
        return flat_ND.new_zeros(self.rows, flat_ND.shape[1]).index_add(0, self.row_N, flat_ND)

    def softmax(self, score_N: Tensor) -> Tensor:
        """Softmax over the steps of each row, [N] -> [N]."""
        return softmax(score_N, self.offsets, self.cell_N, self.width)

    def recurrence(
        self,
        x_NI: Tensor,
        attention_N: Tensor | None,
        *weights: Tensor,
        rule: str,
    ) -> Tensor:
        """States [N, H] of a recurrent layer along each row; weights and rule are those of `dien.ops.recurrence`."""
        return recurrence(x_NI, attention_N, self.offsets, *weights, rule=rule)

    def last(self, states_NH: Tensor) -> Tensor:
        """The state after the last step of each row, [N, H] -> [B, H]; 0 for a row without steps."""
        return last_state(states_NH, self.offsets)
