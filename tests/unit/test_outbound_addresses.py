"""Which addresses may be called for somebody else: every spelling that people hide a private one behind."""

import pytest

from treadle.addresses import check_target, is_named, judge, literal, read_url
from treadle.errors import OutboundRefused

ADDRESSES = {
    # what anybody may call
    "1.1.1.1": "public", "8.8.8.8": "public", "93.184.216.34": "public", "9.255.255.255": "public", "11.0.0.0": "public",
    "100.63.255.255": "public", "100.128.0.0": "public", "126.255.255.255": "public", "128.0.0.0": "public",
    "169.253.255.255": "public", "169.255.0.0": "public", "172.15.255.255": "public", "172.32.0.0": "public",
    "192.167.255.255": "public", "192.169.0.0": "public", "198.17.255.255": "public", "198.20.0.0": "public",
    "223.255.255.255": "public", "2606:4700:4700::1111": "public", "2001:4860:4860::8888": "public",
    "2a00:1450:4001:829::200e": "public", "2001:200::1": "public", "::ffff:8.8.8.8": "public",
    "::ffff:808:808": "public", "64:ff9b::8.8.8.8": "public", "2606:4700::5efe:808:808": "public",
    # what an operator may allow
    "10.0.0.0": "private", "10.0.0.1": "private", "10.255.255.255": "private", "127.0.0.1": "private",
    "127.0.0.2": "private", "127.255.255.255": "private", "172.16.0.0": "private", "172.31.255.255": "private",
    "192.168.0.0": "private", "192.168.255.255": "private", "100.64.0.0": "private", "100.127.255.255": "private",
    "198.18.0.0": "private", "198.19.255.255": "private", "::1": "private", "0:0:0:0:0:0:0:1": "private",
    "fc00::": "private", "fd12:3456::1": "private", "fdff:ffff::1": "private", "::ffff:127.0.0.1": "private",
    "::ffff:7f00:1": "private", "0:0:0:0:0:ffff:7f00:1": "private", "::FFFF:10.0.0.1": "private",
    "::ffff:192.168.1.1": "private", "64:ff9b::127.0.0.1": "private", "64:ff9b::7f00:1": "private",
    "64:ff9b::10.0.0.1": "private",
    # what nobody calls
    "0.0.0.0": "never", "0.0.0.1": "never", "0.255.255.255": "never", "169.254.0.0": "never",
    "169.254.169.254": "never", "169.254.170.2": "never", "169.254.255.255": "never", "168.63.129.16": "never",
    "100.100.100.200": "never", "192.0.0.1": "never", "192.0.0.192": "never", "192.0.2.1": "never",
    "192.88.99.1": "never", "198.51.100.7": "never", "203.0.113.7": "never", "224.0.0.1": "never",
    "239.255.255.255": "never", "240.0.0.1": "never", "255.255.255.255": "never", "::": "never",
    "::ffff:0.0.0.0": "never", "::ffff:169.254.169.254": "never", "::ffff:a9fe:a9fe": "never",
    "::ffff:224.0.0.1": "never", "64:ff9b::169.254.169.254": "never", "64:ff9b::a9fe:a9fe": "never",
    "64:ff9b:1::1": "never", "64:ff9b:1::10.0.0.1": "never", "64:ff9b:1:7f00:0:100::": "never",
    "::127.0.0.1": "never", "::7f00:1": "never", "::10.0.0.1": "never", "::8.8.8.8": "never",
    "::169.254.169.254": "never", "::ffff:0:127.0.0.1": "never", "::ffff:0:8.8.8.8": "never",
    "2002:7f00:1::": "never", "2002:7f00:1::1": "never", "2002:a00:1::1": "never", "2002:a9fe:a9fe::": "never",
    "2002:808:808::1": "never", "2001:0:4136:e378:8000:63bf:3fff:fdd2": "never", "2001::1": "never",
    "2001:0:7f00:1::": "never", "2001:2::1": "never", "2001:10::1": "never", "2001:20::1": "never",
    "2001:db8::1": "never", "3fff::1": "never", "100::1": "never", "5f00::1": "never", "fe80::1": "never",
    "fe80::5efe:127.0.0.1": "never", "febf::1": "never", "fec0::1": "never", "ff02::1": "never", "ff0e::1": "never",
    "fd00:ec2::254": "never", "fd20:ce::254": "never", "2606:4700::5efe:127.0.0.1": "never",
    "2606:4700::200:5efe:10.0.0.1": "never", "2606:4700::5efe:169.254.169.254": "never", "4000::1": "never",
    # what is no address at all, or one of an interface
    "fe80::1%eth0": "never", "::1%1": "never", "2606:4700::1%lo": "never", "": "never", "localhost": "never",
    "127.1": "never", "127.0.0.01": "never", "2130706433": "never", "0x7f.0.0.1": "never", "1.2.3.4.5": "never",
    "１２７.0.0.1": "never", "::1 ": "never", "[::1]": "never",
}  # fmt: skip


@pytest.mark.parametrize(("address", "standing"), ADDRESSES.items())
def test_an_address_is_public_private_or_never_called(address, standing):
    assert judge(address).standing == standing


REFUSED_URLS = [
    # another scheme, or none
    "", "example.com", "//example.com/x", "/x", "file:///etc/passwd", "ftp://example.com/", "gopher://example.com/",
    "data:image/png;base64,AA==", "javascript://example.com/", "unix:///run/x", "http:/example.com", "http:example.com",
    "http:///x", "http://", "http://?x", "http://#x", "https:///etc", "jar:http://example.com!/", "dict://example.com:11111/",
    # credentials, and what makes two readers disagree about the host
    "http://user@example.com/", "http://user:secret@example.com/", "http://@example.com/", "http://example.com@127.0.0.1/",
    "http://example.com\\@127.0.0.1/", "http://127.0.0.1\\.example.com/", "http://example.com:80@127.0.0.1/",
    "http://example.com\t/", "http://exa\nmple.com/", " http://example.com/", "http://example.com /", "http://example.com/\r\nHost: x",
    "http://example.com/a b", "http://example.com/\x00", "http://example.com/\ud800", "http://%31%32%37.0.0.1/",
    "http://127.0.0.1%2f.example.com/", "http://[::1%25eth0]/", "http://[fe80::1%eth0]/", "http://example.com:80:80/",
    "http://[::1/", "http://::1/", "http://[]/", "http://[127.0.0.1]/", "http://[::1].example.com/", "http://[v1.x]/",
    "http://[::1]x/", "http://example..com/", "http://.example.com/", "http://example.com../", "http://-example.com/",
    "http://example-.com/", f"http://{'a' * 64}.com/", f"http://{'a.' * 130}com/", "http://exa$mple.com/", "http://exa'mple.com/",
    # letters that some turn into others
    "http://１２７.0.0.1/", "http://127。0。0。1/", "http://①②⑦.⓪.⓪.①/", "http://ⓛocalhost/", "http://müller.example/",
    "http://example.com／@127.0.0.1/", "http://ſ.example/", "http://127.0.0.1\u200b/",
    # IPv4 as it is not usually written
    "http://2130706433/", "http://0x7f000001/", "http://0x7F.0x0.0x0.0x1/", "http://017700000001/", "http://0177.0.0.1/",
    "http://127.1/", "http://127.0.1/", "http://127.0.0.1.1/", "http://127.0.0.0x1/", "http://0/", "http://0x/", "http://127.0.0.01/",
    "http://127.0.0.256/", "http://4294967296/", "http://00000177.0.0.1/", "http://example.1/", "http://1.1.1.1e1.1/",
    # ports that there are not
    "http://example.com:0/", "http://example.com:65536/", "http://example.com:99999999999999999999/", "http://example.com:-1/",
    "http://example.com:8o/", "http://example.com:80x/", "http://example.com: 80/", "http://example.com:٨٠/",
    "http://example.com/" + "x" * 9000,
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_url_that_two_readers_could_understand_differently_is_refused(url):
    with pytest.raises(OutboundRefused) as refused:
        read_url(url)
    assert refused.value.error_code == "TR073"
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://example.com", "http://example.com/"),
        ("HTTPS://EXAMPLE.com:443/A?b=C#d", "https://example.com/A?b=C"),
        ("http://example.com.:8080/", "http://example.com:8080/"),
        ("http://example.com:/x", "http://example.com/x"),
        ("http://example.com?x=1", "http://example.com/?x=1"),
        ("http://xn--mller-kva.example/ü?q=é%20", "http://xn--mller-kva.example/%C3%BC?q=%C3%A9%20"),
        ("http://example.com/a%2Fb?sig=a%2Bb%3D", "http://example.com/a%2Fb?sig=a%2Bb%3D"),
        ("http://[2606:4700:0:0::1111]:8080/", "http://[2606:4700::1111]:8080/"),
        ("http://8.8.8.8./", "http://8.8.8.8/"),
        ("http://_dmarc.a-b.example/", "http://_dmarc.a-b.example/"),
    ],
)
def test_a_url_as_it_is_usually_written_is_read(url, read):
    assert read_url(url).url == read
    assert read_url(read).url == read


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://10.1.2.3:8080/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://0.0.0.0/",
        "http://169.254.169.254/latest/meta-data/", "http://metadata.google.internal/computeMetadata/v1/",
        "http://METADATA.google.internal./", "http://instance-data/", "http://[fd00:ec2::254]/", "http://example.com:22/",
        "http://example.com:6379/", "http://example.com:25/", "https://example.com:9200/", "http://8.8.8.8:53/",
    ],
)  # fmt: skip
def test_a_target_is_refused_before_a_name_is_resolved(url):
    with pytest.raises(OutboundRefused):
        check_target(read_url(url))


@pytest.mark.parametrize("url", ["http://example.com/", "https://example.com:8443/", "http://8.8.8.8/", "http://localhost/"])  # fmt: skip
def test_a_name_is_judged_by_what_it_leads_to(url):
    check_target(read_url(url))


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://127.0.0.1:9000/", ["127.0.0.1"]),
        ("http://127.0.0.1:9000/", ["127.0.0.1:9000"]),
        ("http://[::1]:9000/", ["[::1]:9000"]),
        ("http://[::1]:9000/", ["::1"]),
        ("http://Pictures.Internal:9000/", ["pictures.INTERNAL"]),
    ],
)
def test_an_operator_names_a_host_or_one_of_its_ports(url, named):
    check_target(read_url(url), named=named)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://127.0.0.1:9000/", ["127.0.0.1:9001"]),
        ("http://127.0.0.1/", ["localhost", "27.0.0.1", "127.0.0.1.example"]),
        ("http://[::ffff:127.0.0.1]/", ["127.0.0.1"]),
        ("http://a.example:9000/", ["example", "b.example", "*"]),
    ],
)
def test_a_host_that_is_not_named_is_a_strangers(url, named):
    assert not is_named(read_url(url), named)
    with pytest.raises(OutboundRefused):
        check_target(read_url(url), named=named)


@pytest.mark.parametrize("host", ["169.254.169.254", "0.0.0.0", "metadata.google.internal", "224.0.0.1"])
def test_nobody_can_name_what_is_never_called(host):
    with pytest.raises(OutboundRefused):
        check_target(read_url(f"http://{host}/"), named=[host])


def test_a_literal_is_told_from_a_name():
    assert (literal("::1"), literal("8.8.8.8"), literal("example.com")) == ("::1", "8.8.8.8", None)
