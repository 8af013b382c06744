// Package clients drives a running daemon with the CRI client library that the kubelet and crictl use.
//
// The suite in tests/it starts a daemon, runs these tests as its user and says where things are:
// USNEA_SOCKET (the CRI socket), USNEA_IMAGE (an image with a shell) and USNEA_LOGS (a directory for logs);
// USNEA_PRIVATE (an image in a registry), USNEA_USER and USNEA_PASSWORD (who may pull it).
package clients

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	internalapi "k8s.io/cri-api/pkg/apis"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
	criclient "k8s.io/cri-client/pkg"
	"k8s.io/utils/exec"
)

const patience = 30 * time.Second

type node struct {
	t       *testing.T
	runtime internalapi.RuntimeService
	images  internalapi.ImageManagerService
	image   *cri.ImageSpec
	logs    string
}

func setting(t *testing.T, name string) string {
	t.Helper()
	value, ok := os.LookupEnv(name)
	if !ok {
		t.Skipf("%s is not set; tests/it sets it", name)
	}
	return value
}

// connect uses unary lists, or streamed ones as newer clients prefer.
func connect(t *testing.T, useStreaming bool) *node {
	t.Helper()
	ctx, endpoint := t.Context(), "unix://"+setting(t, "USNEA_SOCKET")
	tracing := noop.NewTracerProvider()
	runtime, err := criclient.NewRemoteRuntimeService(ctx, endpoint, patience, tracing, useStreaming)
	must(t, "connect to the runtime service", err)
	images, err := criclient.NewRemoteImageService(ctx, endpoint, patience, tracing, useStreaming)
	must(t, "connect to the image service", err)
	image := &cri.ImageSpec{Image: setting(t, "USNEA_IMAGE")}
	return &node{t, runtime, images, image, setting(t, "USNEA_LOGS")}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func sandbox(name, logs string) *cri.PodSandboxConfig {
	options := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: "uid-" + name, Namespace: "go-client"},
		LogDirectory: logs,
		Labels:       map[string]string{"client": "go"},
		Linux: &cri.LinuxPodSandboxConfig{
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: options},
		},
	}
}

func (n *node) script(name, script string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    n.image,
		Command:  []string{"sh", "-c", script},
		LogPath:  name + ".log",
	}
}

func (n *node) run(config *cri.PodSandboxConfig) string {
	n.t.Helper()
	id, err := n.runtime.RunPodSandbox(n.t.Context(), config, "")
	must(n.t, "RunPodSandbox", err)
	// The test's own context has ended by then.
	n.t.Cleanup(func() {
		must(n.t, "StopPodSandbox", n.runtime.StopPodSandbox(context.Background(), id))
		must(n.t, "RemovePodSandbox", n.runtime.RemovePodSandbox(context.Background(), id))
	})
	return id
}

func (n *node) launch(pod string, config *cri.ContainerConfig, sandbox *cri.PodSandboxConfig) string {
	n.t.Helper()
	id, err := n.runtime.CreateContainer(n.t.Context(), pod, config, sandbox)
	must(n.t, "CreateContainer", err)
	must(n.t, "StartContainer", n.runtime.StartContainer(n.t.Context(), id))
	return id
}

func (n *node) status(id string) *cri.ContainerStatus {
	n.t.Helper()
	response, err := n.runtime.ContainerStatus(n.t.Context(), id, false)
	must(n.t, "ContainerStatus", err)
	return response.Status
}

func (n *node) exited(id string) *cri.ContainerStatus {
	n.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if status := n.status(id); status.State == cri.ContainerState_CONTAINER_EXITED {
			return status
		}
	}
	n.t.Fatalf("container %s does not exit", id)
	return nil
}

func TestVersionStatusAndConfiguration(t *testing.T) {
	n := connect(t, false)
	version, err := n.runtime.Version(t.Context(), "v1")
	must(t, "Version", err)
	if version.RuntimeName != "usnea" {
		t.Errorf("runtime name %q", version.RuntimeName)
	}
	response, err := n.runtime.Status(t.Context(), true)
	must(t, "Status", err)
	for _, condition := range response.Status.Conditions[:2] {
		if !condition.Status {
			t.Errorf("%s: %s", condition.Type, condition.Message)
		}
	}
	config, err := n.runtime.RuntimeConfig(t.Context())
	must(t, "RuntimeConfig", err)
	if driver := config.Linux.CgroupDriver; driver != cri.CgroupDriver_CGROUPFS {
		t.Errorf("cgroup driver %v", driver)
	}
}

func TestLifecycle(t *testing.T) {
	for _, streaming := range []bool{false, true} {
		t.Run(map[bool]string{false: "unary", true: "streaming"}[streaming], func(t *testing.T) {
			lifecycle(connect(t, streaming))
		})
	}
}

func lifecycle(n *node) {
	t, ctx := n.t, n.t.Context()
	config := sandbox("lifecycle", n.logs)
	pod := n.run(config)
	pods, err := n.runtime.ListPodSandbox(ctx, &cri.PodSandboxFilter{LabelSelector: config.Labels})
	must(t, "ListPodSandbox", err)
	if len(pods) != 1 || pods[0].Id != pod {
		t.Errorf("pods: %v", pods)
	}
	response, err := n.runtime.PodSandboxStatus(ctx, pod, true)
	must(t, "PodSandboxStatus", err)
	if response.Status.State != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("sandbox: %v", response.Status)
	}
	id := n.launch(pod, n.script("main", "echo hello; trap 'exit 7' TERM; while :; do sleep 0.05; done"), config)
	n.executes(id)
	must(t, "StopContainer", n.runtime.StopContainer(ctx, id, 20))
	if status := n.status(id); status.ExitCode != 7 || status.Reason != "Error" {
		t.Errorf("after the stop: %v", status)
	}
	content, err := os.ReadFile(n.status(id).LogPath)
	must(t, "read the log", err)
	if !strings.HasSuffix(string(content), " stdout F hello\n") {
		t.Errorf("log: %q", content)
	}
	must(t, "RemoveContainer", n.runtime.RemoveContainer(ctx, id))
	must(t, "remove the log", os.Remove(n.logs+"/main.log"))
	containers, err := n.runtime.ListContainers(ctx, &cri.ContainerFilter{PodSandboxId: pod})
	must(t, "ListContainers", err)
	if len(containers) != 0 {
		t.Errorf("containers: %v", containers)
	}
}

// executes runs probes as the kubelet does: the exit code comes as an error of a known type.
func (n *node) executes(id string) {
	t, ctx := n.t, n.t.Context()
	stdout, stderr, err := n.runtime.ExecSync(ctx, id, []string{"sh", "-c", "echo out; echo err >&2"}, patience)
	must(t, "ExecSync", err)
	if string(stdout) != "out\n" || string(stderr) != "err\n" {
		t.Errorf("output: %q, %q", stdout, stderr)
	}
	_, _, err = n.runtime.ExecSync(ctx, id, []string{"sh", "-c", "exit 3"}, patience)
	var exit exec.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("exit code 3: %v", err)
	}
	_, _, err = n.runtime.ExecSync(ctx, id, []string{"sleep", "100"}, time.Second)
	if !errors.Is(err, criclient.ErrCommandTimedOut) {
		t.Errorf("time-out: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	n := connect(t, false)
	config := sandbox("exits", n.logs)
	pod := n.run(config)
	for name, want := range map[string]int32{"zero": 0, "three": 3} {
		id := n.launch(pod, n.script(name, map[int32]string{0: "exit 0", 3: "exit 3"}[want]), config)
		if status := n.exited(id); status.ExitCode != want {
			t.Errorf("%s: %v", name, status)
		}
	}
}

func TestUnknownContainer(t *testing.T) {
	n := connect(t, false)
	_, err := n.runtime.ContainerStatus(t.Context(), strings.Repeat("0", 64), false)
	if status.Code(err) != codes.NotFound {
		t.Errorf("the kubelet drops an object on NotFound only: %v", err)
	}
}

func TestImages(t *testing.T) {
	n := connect(t, false)
	images, err := n.images.ListImages(t.Context(), &cri.ImageFilter{Image: n.image})
	must(t, "ListImages", err)
	response, err := n.images.ImageStatus(t.Context(), n.image, false)
	must(t, "ImageStatus", err)
	if len(images) != 1 || response.Image == nil || images[0].Id != response.Image.Id {
		t.Fatalf("list %v, status %v", images, response.Image)
	}
	usage, err := n.images.ImageFsInfo(t.Context())
	must(t, "ImageFsInfo", err)
	if len(usage.ImageFilesystems) != 1 || usage.ImageFilesystems[0].UsedBytes == nil {
		t.Errorf("the kubelet needs exactly one with used_bytes: %v", usage)
	}
	response, err = n.images.ImageStatus(t.Context(), &cri.ImageSpec{Image: "usnea.test/none:1"}, false)
	must(t, "ImageStatus of an unknown image", err)
	if response.Image != nil {
		t.Errorf("unknown image: %v", response.Image)
	}
}

func TestPulls(t *testing.T) {
	n := connect(t, false)
	private := &cri.ImageSpec{Image: setting(t, "USNEA_PRIVATE")}
	auth := &cri.AuthConfig{Username: setting(t, "USNEA_USER"), Password: setting(t, "USNEA_PASSWORD")}
	_, err := n.images.PullImage(t.Context(), private, nil, nil)
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("without credentials: %v", err)
	}
	ref, err := n.images.PullImage(t.Context(), private, auth, nil)
	must(t, "PullImage", err)
	response, err := n.images.ImageStatus(t.Context(), private, false)
	must(t, "ImageStatus", err)
	if response.Image == nil || response.Image.Id != ref || response.Image.Uid.GetValue() != 1000 {
		t.Errorf("pulled %s: %v", ref, response.Image)
	}
	must(t, "RemoveImage", n.images.RemoveImage(t.Context(), &cri.ImageSpec{Image: ref}))
	response, err = n.images.ImageStatus(t.Context(), private, false)
	must(t, "ImageStatus", err)
	if response.Image != nil {
		t.Errorf("removed: %v", response.Image)
	}
	unreachable := &cri.ImageSpec{Image: "127.0.0.1:1/app:1"}
	_, err = n.images.PullImage(t.Context(), unreachable, nil, nil)
	// The library takes the code away where the message begins with a name that the kubelet knows.
	if err == nil || !strings.HasPrefix(err.Error(), crierrors.ErrRegistryUnavailable.Error()) {
		t.Errorf("unreachable: %v", err)
	}
}
