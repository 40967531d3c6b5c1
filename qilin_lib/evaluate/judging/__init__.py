"""Answers judged by models and by people: verdicts, what they add up to, and how far judges agree."""
