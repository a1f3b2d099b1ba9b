// Prints the metadata read by npm's @aws-sdk/credential-provider-imds, as JSON.
const { fromInstanceMetadata, getInstanceMetadataEndpoint, httpRequest } = require("@aws-sdk/credential-provider-imds");

const read = async (options) => (await httpRequest({ ...(await getInstanceMetadataEndpoint()), timeout: 5000, ...options })).toString();

const main = async () => {
  const token = await read({ method: "PUT", path: "/latest/api/token", headers: { "x-aws-ec2-metadata-token-ttl-seconds": "21600" } });
  const headers = { "x-aws-ec2-metadata-token": token };
  const found = { endpoint: await getInstanceMetadataEndpoint() };
  for (const path of ["instance-id", "local-ipv4"]) found[path] = await read({ path: `/latest/meta-data/${path}`, headers });
  try {
    found.credentials = await fromInstanceMetadata({ timeout: 5000, maxRetries: 0 })();
  } catch (error) {
    found.refused = { name: error.name, status: error.statusCode };
  }
  console.log(JSON.stringify(found));
};

main();
