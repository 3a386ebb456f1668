/* Asks for sockets of families that no filter should let through, in every way that the kernel offers. */
#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ALG 38   /* AF_ALG: the kernel's ciphers (CVE-2026-31431) */
#define VSOCK 40 /* AF_VSOCK: the hypervisor */

static void tell(const char *how, long result)
{
	if (result >= 0)
		printf("%s gave a socket\n", how);
	else if (errno != EPERM && errno != ENOSYS)
		printf("%s was not refused by the filter: %d\n", how, errno);
}

int main(void)
{
	tell("socket", syscall(SYS_socket, ALG, SOCK_SEQPACKET, 0));
	tell("vsock", syscall(SYS_socket, VSOCK, SOCK_STREAM, 0));
	/* The kernel looks at 32 bits of the family; a filter that compares 64 lets this through. */
	tell("socket with more bits", syscall(SYS_socket, 0x100000000L | ALG, SOCK_SEQPACKET, 0));
#ifdef __x86_64__
	/* x32: the same numbers with a bit set. */
	tell("socket of x32", syscall(0x40000000L | SYS_socket, ALG, SOCK_SEQPACKET, 0));
	/* 32 bits: socketcall(SYS_SOCKET, arguments), whose arguments no filter sees. Below 4 GiB, as it takes 32 of them. */
	static int arguments[3] = { ALG, SOCK_SEQPACKET, 0 };
	int result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(102), "b"(1), "c"(arguments) : "memory", "r8", "r9", "r10", "r11");
	if (result >= 0)
		printf("socketcall gave a socket\n");
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(359), "b"(ALG), "c"(SOCK_SEQPACKET), "d"(0)
			 : "memory", "r8", "r9", "r10", "r11");
	if (result >= 0)
		printf("socket of 32 bits gave a socket\n");
#endif
	result = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
	printf(result >= 0 ? "others work\n" : "others do not work\n");
	return 0;
}
