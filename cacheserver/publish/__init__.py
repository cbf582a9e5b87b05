"""The write side: packages are drafted in etcd, and what was approved is published to git.

author.py takes writes of users; git/publisher.py does in git what they asked for, under the repository's claim; how a
draft begins is create/.
"""
