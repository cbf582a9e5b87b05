"""HTTP as the API needs it: connections and what they may hold, negotiation, ready bytes out."""
