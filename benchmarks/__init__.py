# SPDX-License-Identifier: Apache-2.0
"""Scripts that time denseg and a peer in one run."""
