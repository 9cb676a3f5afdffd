"""The world model: networks, RSSM, inverse-dynamics head, filtering, and how good it is."""
