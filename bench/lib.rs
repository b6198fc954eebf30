//! Micro-benchmarks: see `benches/`. Figures are in `docs/performance.md`, each beside its command.
