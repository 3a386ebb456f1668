/* Takes over whatever appears in the PID namespace that it is in: attaches to it, and reads what it has open.
   Needs CAP_SYS_PTRACE. Prints every right above those it has itself, and every file of another kind than a pipe, socket
   or null device that a process had before it became a program of this container. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned long long permitted(const char *pid, int *is_ours)
{
	char path[64], line[256];
	unsigned long long caps = 0;
	snprintf(path, sizeof path, "/proc/%s/status", pid);
	FILE *status = fopen(path, "r");
	if (!status)
		return 0;
	while (fgets(line, sizeof line, status)) {
		if (!strncmp(line, "Name:\tberth", 11))
			*is_ours = 1;
		sscanf(line, "CapPrm: %llx", &caps);
	}
	fclose(status);
	return caps;
}

static void files(const char *pid)
{
	char path[64], target[512];
	snprintf(path, sizeof path, "/proc/%s/fd", pid);
	DIR *dir = opendir(path);
	if (!dir)
		return;
	for (struct dirent *fd; (fd = readdir(dir));) {
		ssize_t length = readlinkat(dirfd(dir), fd->d_name, target, sizeof target - 1);
		if (length <= 0)
			continue;
		target[length] = 0;
		if (strncmp(target, "pipe:", 5) && strncmp(target, "socket:", 7) && strcmp(target, "/dev/null")
		    && strcmp(target, "/null") && strncmp(target, "anon_inode:[pidfd]", 18) && strncmp(target, "/dev/pts", 8))
			printf("descriptor %s is %s\n", fd->d_name, target);
	}
	closedir(dir);
}

int main(void)
{
	char self[16];
	int unused = 0, seen = 0;
	snprintf(self, sizeof self, "%d", getpid());
	unsigned long long own = permitted(self, &unused);
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("ready\n");
	while (access("/tmp/done", F_OK)) {
		DIR *proc = opendir("/proc");
		for (struct dirent *entry; (entry = readdir(proc));) {
			int pid = atoi(entry->d_name), is_ours = 0;
			if (pid <= 1 || pid == getpid())
				continue;
			unsigned long long caps = permitted(entry->d_name, &is_ours);
			if (!is_ours)
				continue;
			seen++;
			if (caps & ~own)
				printf("capabilities %llx\n", caps);
			files(entry->d_name);
			if (!ptrace(PTRACE_SEIZE, pid, 0, 0)) {
				/* Attached: what could be done with it now is what it may do. */
				caps = permitted(entry->d_name, &is_ours);
				if (caps & ~own)
					printf("taken over with capabilities %llx\n", caps);
				ptrace(PTRACE_INTERRUPT, pid, 0, 0);
				waitpid(pid, NULL, __WALL);
				ptrace(PTRACE_DETACH, pid, 0, 0);
			}
		}
		closedir(proc);
	}
	printf("saw %d\n", seen);
	return 0;
}
