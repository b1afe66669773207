"""Ask people which pictures show what a prompt says (MI-Tune, Appendix B)."""
