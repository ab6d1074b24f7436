"""The explorer's tools as a client of the Model Context Protocol sees and calls them."""

import asyncio

import pytest

pytest.importorskip("mcp", reason="the package mcp is not installed: pip install 'mcp<2'")


async def talk(url: str) -> tuple[dict[str, str], str]:
    """What every tool says of itself, and the answer of one."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with streamable_http_client(f"{url.rstrip('/')}/gradio_api/mcp/") as (read, write, _):
        async with ClientSession(read, write) as session:
            await session.initialize()
            tools = {tool.name: tool.description for tool in (await session.list_tools()).tools}
            answer = await session.call_tool("feature", {"name": "mid.0/1"})
            return tools, answer.content[0].text


def test_the_useful_actions_are_tools_with_descriptions(url):
    tools, answer = asyncio.run(talk(url))
    wanted = ("systems", "generate", "see_features", "features_at", "edit", "compare", "strengths", "feature",
              "examples", "search_features", "label_feature", "blocks")  # fmt: skip
    assert set(tools) == set(wanted)
    assert all(tools.values())
    assert "'name': 'mid.0/1'" in answer
