// SPDX-License-Identifier: Apache-2.0
//
// Steers Tradewind's packets to AF_XDP sockets. Ours and known: redirect. Ours and unknown or malformed: drop.
// Anything else: pass to the kernel. Every frame is counted once, by verdict.
//
// Every limit, map name and verdict number comes from steer_layout.h, which build.rs writes from src/layout.rs.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include "steer_layout.h"

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static __attribute__((always_inline)) inline
// BTF-defined maps: the loader reads these fields from the type information.
#define MAP_NUMBER(field, value) int(*field)[value]
#define MAP_TYPE(field, type) type *field

// The two helpers in use, by their numbers in <linux/bpf.h>.
static void *(*const map_lookup)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*const redirect_map)(void *map, __u64 key, __u64 flags) = (void *)BPF_FUNC_redirect_map;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FROM_BE16(x) __builtin_bswap16(x)
#define FROM_BE64(x) __builtin_bswap64(x)
#else
#define FROM_BE16(x) (x)
#define FROM_BE64(x) (x)
#endif

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, TW_LANES_MAX);
	MAP_TYPE(key, __u64);
	MAP_TYPE(value, __u32);
} TW_MAP_LANES SECTION(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_HASH);
	MAP_NUMBER(max_entries, TW_PORTS_MAX);
	MAP_TYPE(key, __u16);
	MAP_TYPE(value, __u8);
} TW_MAP_PORTS SECTION(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_XSKMAP);
	MAP_NUMBER(max_entries, TW_SOCKETS_MAX);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u32);
} TW_MAP_SOCKETS SECTION(".maps");

struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, TW_VERDICTS);
	MAP_TYPE(key, __u32);
	MAP_TYPE(value, __u64);
} TW_MAP_COUNTERS SECTION(".maps");

struct vlan_tag {
	__be16 control;
	__be16 protocol;
};

// Where parsing stands: the next unread byte and the end of the frame's first buffer.
struct cursor {
	unsigned char *next;
	unsigned char *end;
};

INLINE int count(__u32 verdict, int action)
{
	__u64 *counter = map_lookup(&TW_MAP_COUNTERS, &verdict);

	if (counter)
		*counter += 1;
	return action;
}

// Returns the ethertype behind at most two VLAN tags, in network order; 0 if the frame ends before it.
INLINE __be16 ethertype(struct cursor *at)
{
	struct ethhdr *ethernet = (void *)at->next;
	__be16 protocol;

	if ((void *)(ethernet + 1) > (void *)at->end)
		return 0;
	protocol = ethernet->h_proto;
	at->next = (void *)(ethernet + 1);
#pragma unroll
	for (int tags = 0; tags < 2; tags++) {
		struct vlan_tag *tag = (void *)at->next;

		if (protocol != FROM_BE16(ETH_P_8021Q) && protocol != FROM_BE16(ETH_P_8021AD))
			break;
		if ((void *)(tag + 1) > (void *)at->end)
			return 0;
		protocol = tag->protocol;
		at->next = (void *)(tag + 1);
	}
	return protocol;
}

// Steps over the IPv4 header. Returns a verdict if the frame is not a whole UDP datagram, TW_CONTINUE if it is.
INLINE __u32 ipv4(struct cursor *at)
{
	struct iphdr *ip = (void *)at->next;

	if ((void *)(ip + 1) > (void *)at->end || ip->version != 4)
		return TW_VERDICT_NOT_OURS;
	if (ip->protocol != IPPROTO_UDP)
		return TW_VERDICT_NOT_OURS;
	if (ip->ihl != 5)
		return TW_VERDICT_IPV4_OPTIONS;
	if (ip->frag_off & FROM_BE16(0x3fff)) // more fragments follow, or an offset (RFC 791 section 3.1)
		return TW_VERDICT_FRAGMENT;
	at->next = (void *)(ip + 1);
	return TW_CONTINUE;
}

// The same for IPv6. TCP and ICMPv6 are somebody else's; any other next header is an extension we do not follow.
INLINE __u32 ipv6(struct cursor *at)
{
	struct ipv6hdr *ip = (void *)at->next;

	if ((void *)(ip + 1) > (void *)at->end || ip->version != 6)
		return TW_VERDICT_NOT_OURS;
	if (ip->nexthdr == IPPROTO_TCP || ip->nexthdr == IPPROTO_ICMPV6)
		return TW_VERDICT_NOT_OURS;
	if (ip->nexthdr != IPPROTO_UDP)
		return TW_VERDICT_IPV6_EXTENSION;
	at->next = (void *)(ip + 1);
	return TW_CONTINUE;
}

// Hands a frame of a known lane to the lane's worker, else to the socket that owns the queue, else to the kernel.
INLINE int redirect(struct xdp_md *context, __u32 row)
{
	__u32 queue = context->rx_queue_index;

	if (queue < TW_QUEUES_MAX) {
		if (row != TW_ROW_ANY && row < TW_SOCKET_ROWS &&
		    redirect_map(&TW_MAP_SOCKETS, row * TW_QUEUES_MAX + queue, XDP_PASS) == XDP_REDIRECT)
			return count(TW_VERDICT_REDIRECTED, XDP_REDIRECT);
		if (redirect_map(&TW_MAP_SOCKETS, TW_ROW_ANY * TW_QUEUES_MAX + queue, XDP_PASS) == XDP_REDIRECT)
			return count(TW_VERDICT_REDIRECTED, XDP_REDIRECT);
	}
	return count(TW_VERDICT_NO_SOCKET, XDP_PASS);
}

INLINE int steer_frame(struct xdp_md *context)
{
	struct cursor at = { (void *)(long)context->data, (void *)(long)context->data_end };
	__be16 protocol = ethertype(&at);
	__u32 verdict = TW_VERDICT_NOT_OURS;
	struct udphdr *udp;
	unsigned char *payload;
	__u64 lane;
	__u32 *known;
	__u16 port;

	if (protocol == FROM_BE16(ETH_P_IP))
		verdict = ipv4(&at);
	else if (protocol == FROM_BE16(ETH_P_IPV6))
		verdict = ipv6(&at);
	if (verdict != TW_CONTINUE)
		return count(verdict, XDP_PASS);

	udp = (void *)at.next;
	if ((void *)(udp + 1) > (void *)at.end)
		return count(TW_VERDICT_NOT_OURS, XDP_PASS);
	port = FROM_BE16(udp->dest);
	if (!map_lookup(&TW_MAP_PORTS, &port))
		return count(TW_VERDICT_NOT_OURS, XDP_PASS);

	payload = (void *)(udp + 1);
	if (payload + TW_PAYLOAD_BYTES_MIN > at.end || FROM_BE16(udp->len) < sizeof(*udp) + TW_PAYLOAD_BYTES_MIN)
		return count(TW_VERDICT_TRUNCATED, XDP_DROP);
	if (payload[0] >> 4 != TW_WIRE_VERSION)
		return count(TW_VERDICT_WRONG_VERSION, XDP_DROP);
	if ((payload[0] & 15) < TW_KIND_MIN || (payload[0] & 15) > TW_KIND_MAX)
		return count(TW_VERDICT_BAD_KIND, XDP_DROP);

	__builtin_memcpy(&lane, payload + TW_LANE_ID_OFFSET, sizeof(lane));
	lane = FROM_BE64(lane);
	known = map_lookup(&TW_MAP_LANES, &lane);
	if (!known)
		return count(TW_VERDICT_UNKNOWN_LANE, XDP_DROP);
	// No frame holds what an offload has merged; the kernel's socket takes it.
	if (FROM_BE16(udp->len) > *known >> TW_ROW_BITS)
		return count(TW_VERDICT_MERGED, XDP_PASS);
	return redirect(context, *known & ((1 << TW_ROW_BITS) - 1));
}

SECTION("xdp") int TW_PROGRAM(struct xdp_md *context)
{
	return steer_frame(context);
}

SECTION("xdp.frags") int TW_PROGRAM_FRAGS(struct xdp_md *context)
{
	return steer_frame(context);
}

SECTION("license") const char steer_license[] = "Apache-2.0";
