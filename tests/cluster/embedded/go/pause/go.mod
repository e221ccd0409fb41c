module qwenft.dev/embedded/pause

go 1.26.0
