# The few commands of a working day. CI runs .ci/run, which does all of this and more, from a clean clone.
# `work` is the go command's name for the packages of every module in go.work; `./...` would stop at the root module.

.PHONY: test race random random-cni faults lint cross lab bench vmtest e2e e2e-cri consumer apidiff release release-test ci

test: # kernel tests make namespaces of their own: no root is needed
	go test work

race: # needs gcc; GoBGP marks paths as stale while it lists them, so one side of that goes unwatched
	go test -race -gcflags=github.com/osrg/gobgp/v4/internal/pkg/table=-race=false work

random: # policies of clusters that nobody has thought of: evaluators against each other, and both against real packets
	go test ./policy -run Random -rapid.checks=10000
	go test ./policy/nftables -run Random -clusters 10000 -timeout 30m
	go test ./policy/iptables -run Random -clusters 1000 -timeout 30m
	go test ./policy/iptables -run 'Scenarios|Updates' -whole -updates 1000 -timeout 30m

faults: # what may happen to the lease store, at length, while pods talk
	cd examples && go test ./flannel -run 'TestFaults|TestLeaderLost|TestAdopts' -faults -v -timeout 10m

lint:
	gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go') | (! grep .)
	go vet work
	hack/tool golangci-lint run $$(go list -f '{{.Dir}}' work)

cross: # every module, without a C compiler
	CGO_ENABLED=0 GOARCH=amd64 go build -o /dev/null work
	CGO_ENABLED=0 GOARCH=arm64 go vet work

lab:
	go run ./examples/lab

bench: # make bench PKG=./vxlan
	go test -run '^$$' -bench . -benchmem $(or $(PKG),work)

vmtest: # the kernel tests on Debian's stock kernel, in an emulated PC; and policies beside IPVS, and without br_netfilter
	hack/vmtest
	hack/vmtest -run 'IPVS|Bridge' ./policy/nftables

e2e: # Kubernetes itself and whole nodes, as root, built the first time in some minutes: make e2e ARGS='-v -run TestDaemonSet -outage 30s'
	e2e/run $(ARGS)

e2e-cri: # pods by containerd and podman, as root: apt-get install --no-install-recommends containerd runc podman containernetworking-plugins
	cd e2e/cri && GOWORK=off PODWEFT_REQUIRE_CRI=1 go test -count=1 ./...

random-cni: # 10,000 calls of the plugin in random order, killed and rebooted in between, against a model
	PODWEFT_MODEL=10000 go test ./cniplugin -run TestModel -timeout 60m

consumer: # make consumer UPDATE=1 accepts what it found
	hack/consumer $(if $(UPDATE),--update)

apidiff:
	hack/apidiff

release: # make release VERSION=v0.1.0 [DRY=1]; pushes nothing
	hack/release $(if $(DRY),--dry-run) $(VERSION)

release-test:
	hack/release-test

ci: # as root
	.ci/run
