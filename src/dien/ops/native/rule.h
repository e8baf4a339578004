// The update rules as numbers; `layout.py` has those of each.

#pragma once

namespace dien {

// What a step writes, for all rules at once: w = (gate + gate_attention * a) * u + attention * a.
template <class T>
struct Rule {
  T gate, gate_attention, attention;
};

}  // namespace dien
