# Sourced. outside REPO TMP: from here on, the go command is that of a stranger who has no clone, for whom REPO stands at the
# place of the published repository. It makes the module's zip from REPO's commits and tags exactly as the module proxy would, so
# nested modules, tags and replaces behave as they will for a user.
outside() {
	local repo=$1 tmp=$2 downloads proxies
	downloads=$(go env GOMODCACHE)/cache/download
	proxies=$(go env GOPROXY)
	export GIT_CONFIG_COUNT=1
	export GIT_CONFIG_KEY_0="url.file://$repo.insteadOf"
	export GIT_CONFIG_VALUE_0=https://github.com/podweft/podweft
	export GONOPROXY=github.com/podweft/podweft
	# What this machine has is not asked for again (no network is needed then), but our own module must not be remembered:
	# the cache is a new one. The checksums of the others were checked when they came into the old one.
	export GOPROXY=file://$downloads,$proxies
	export GOMODCACHE=$tmp/modules GOBIN=$tmp/bin
	export GOSUMDB=off GOWORK=off GOFLAGS=-modcacherw
}
