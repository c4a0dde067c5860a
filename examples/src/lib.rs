//! Embeddable hosts, one task each.
